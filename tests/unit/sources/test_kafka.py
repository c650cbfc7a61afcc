"""The section of a topic, what librdkafka is told, and messages framed for a schema registry."""

import json
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from pipelines.errors import ConfigError, RateLimited, SourceError, SourceForbidden
from pipelines.sources.kafka.client import settings
from pipelines.sources.kafka.schema_registry import SchemaRegistry, UnknownSchema
from pipelines.sources.kafka.section import KafkaSource, group_of

BASE = {"name": "wiki", "kind": "kafka", "bootstrap_servers": "broker:9092", "topic": "wiki.changes"}
SASL = {
    "security_protocol": "SASL_SSL",
    "sasl_mechanism": "PLAIN",
    "username_env": "WIKI_USER",
    "password_env": "WIKI_PASSWORD",
}


def section(**keys):
    return KafkaSource.model_validate(BASE | keys)


@pytest.mark.parametrize(
    "name",
    ["sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem", "sasl.oauthbearer.client.secret",
     "sasl.username"],
)  # fmt: skip
def test_a_secret_among_the_options_is_refused(name):
    with pytest.raises(ValidationError, match="secret"):
        section(options={name: "x"})


@pytest.mark.parametrize(
    "name",
    ["enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "group.id", "group.instance.id",
     "bootstrap.servers", "security.protocol", "plugin.library.paths", "sasl.kerberos.kinit.cmd", "error_cb"],
)  # fmt: skip
def test_an_option_that_would_break_a_promise_or_start_a_program_is_refused(name):
    with pytest.raises(ValidationError, match="set by Lockstep"):
        section(options={name: "x"})


def test_other_options_reach_librdkafka():
    assert settings(section(options={"client.id": "lockstep-7"}))["client.id"] == "lockstep-7"


@pytest.mark.parametrize("missing", ["sasl_mechanism", "username_env", "password_env"])
def test_a_protocol_with_a_password_needs_the_names_of_its_variables(missing):
    with pytest.raises(ValidationError, match=missing):
        section(**{name: value for name, value in SASL.items() if name != missing})


def test_a_secret_comes_from_the_environment_when_it_is_needed(monkeypatch):
    monkeypatch.delenv("WIKI_PASSWORD", raising=False)
    monkeypatch.setenv("WIKI_USER", "ada")
    with pytest.raises(ConfigError, match="WIKI_PASSWORD"):
        settings(section(**SASL))
    monkeypatch.setenv("WIKI_PASSWORD", "hunter2")
    assert settings(section(**SASL))["sasl.password"] == "hunter2"
    assert "hunter2" not in repr(section(**SASL))


@pytest.mark.parametrize(
    "keys",
    [{"topic": "a b"}, {"topic": ""}, {"bootstrap_servers": ""}, {"schema_registry_url": "https://user:pw@registry"},
     {"schema_registry_username_env": "U"}, {"pointer_roots": ["file:///"]}, {"password": "x"}],
)  # fmt: skip
def test_a_wrong_section_is_refused(keys):
    with pytest.raises(ValidationError):
        section(**keys)


def test_the_group_is_named_after_index_and_source_unless_it_is_given():
    assert group_of(section(), "handbook") == "lockstep.handbook.wiki"
    assert group_of(section(group="theirs"), "handbook") == "theirs"


def test_certificates_are_looked_for_beside_the_configuration():
    assert section(ca_location="ca.pem").located(Path("/etc/x")).ca_location == Path("/etc/x/ca.pem")
    assert section().located(Path("/etc/x")).ca_location is None


def registry(handler, **keys):
    keys = {"schema_registry_url": "https://registry.example/"} | keys
    return SchemaRegistry(section(**keys), httpx.MockTransport(handler))


def framed(schema_id, content=b"{}"):
    return b"\x00" + schema_id.to_bytes(4, "big") + content


def test_a_schema_is_looked_up_once_and_the_message_is_what_follows_the_frame():
    asked = []

    def answers(request):
        asked.append(request.url.path)
        return httpx.Response(200, json={"schema": "{}", "schemaType": "JSON"})

    with registry(answers) as known:
        assert known.unframed(framed(7, b'{"a":1}')) == b'{"a":1}'
        assert known.unframed(framed(7, b'{"a":2}')) == b'{"a":2}'
    assert asked == ["/schemas/ids/7"]


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"schema_version":1}', b"\x00\x00\x01", b"\x01\x00\x00\x00\x01{}"])
def test_a_message_without_a_frame_can_never_be_understood(payload):
    with registry(lambda _: pytest.fail("asked")) as known, pytest.raises(UnknownSchema, match="framed"):
        known.unframed(payload)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(httpx.Response(200, json={"schema": "{}"}), "AVRO"), (httpx.Response(404, json={}), "not in the")],
    ids=["another type", "none"],
)
def test_a_schema_of_another_type_or_of_none_is_refused(answer, reason):
    with registry(lambda _: answer) as known, pytest.raises(UnknownSchema, match=reason):
        known.unframed(framed(1))


def test_a_schema_that_is_registered_later_is_found_then():
    answers = [httpx.Response(404), httpx.Response(200, json={"schema": "{}", "schemaType": "JSON"})]
    with registry(lambda _: answers.pop(0)) as known:
        with pytest.raises(UnknownSchema):
            known.unframed(framed(1))
        assert known.unframed(framed(1)) == b"{}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(500), SourceError),
        (httpx.Response(200, content=b"no json"), SourceError),
        (httpx.Response(401), SourceForbidden),
        (httpx.Response(403), SourceForbidden),
        (httpx.Response(429, headers={"Retry-After": "7"}), RateLimited),
        (httpx.ConnectError("no"), SourceError),
    ],
    ids=["500", "no JSON", "401", "403", "429", "no answer"],
)
def test_a_registry_that_does_not_answer_rejects_no_message(answer, error):
    def answers(_request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    with registry(answers) as known, pytest.raises(error, match="wiki"):
        known.unframed(framed(1))


def test_the_registrys_credentials_come_from_the_environment(monkeypatch):
    names = {"schema_registry_username_env": "R_USER", "schema_registry_password_env": "R_PASSWORD"}
    monkeypatch.setenv("R_USER", "ada")
    monkeypatch.setenv("R_PASSWORD", "hunter2")
    seen = []

    def answers(request):
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json=["JSON"])

    with registry(answers, **names) as known:
        assert "JSON" in known.answers()
    assert seen[0].startswith("Basic ")
    monkeypatch.delenv("R_PASSWORD")
    with pytest.raises(ConfigError, match="R_PASSWORD"):
        registry(answers, **names)


def test_a_section_survives_being_written_and_read():
    assert KafkaSource.model_validate(json.loads(section(**SASL).model_dump_json())) == section(**SASL)
