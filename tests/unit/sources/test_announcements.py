"""What producers say becomes events the same way for ever, and whatever else arrives becomes a rejected one."""

import base64
import copy
import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.sources.announced.announcements import AnnouncedSection, change_event_schema, decode
from tests.schema_compatibility import breaks

DATA = Path(__file__).resolve().parents[2] / "data" / "change_events"
GOLDEN = sorted((DATA / "v1").glob("*.json"))
SECTION = AnnouncedSection(
    name="wiki",
    kind="any",
    pointer_roots=("https://files.example.org/docs", "s3://docs-bucket/in/", "file:///srv/docs"),
)
BASE = {"schema_version": 1, "type": "upsert", "uri": "a.md", "version": 1, "content": {"text": "text"}}


def told(event):
    """Everything of an event that does not depend on when and how it came, as JSON."""
    if event.type == "rejected":
        return {"type": "rejected", "uri": event.uri, "error_class": event.error_class}
    names = ("type", "uri", "version", "pointer", "size_bytes", "media_type", "readers")
    record = {name: getattr(event, name) for name in names}
    record["content_base64"] = None if event.content is None else base64.b64encode(event.content).decode()
    record["attributes"] = dict(event.attributes)
    for name in ("occurred_at", "modified_at"):
        moment = getattr(event, name)
        record[name] = None if moment is None else moment.isoformat()
    return json.loads(json.dumps(record))


def decoded(message, section=SECTION, **options):
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    return decode(payload, section, origin="kafka:t[0]@1", **options)


@pytest.mark.parametrize("path", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_a_message_of_version_1_means_the_same_for_ever(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    if "message" in record:
        payload = json.dumps(record["message"], ensure_ascii=False).encode()
    else:
        payload = base64.b64decode(record["message_base64"])
    event = decoded(payload)
    assert told(event) == record["event"]
    assert event.type == "rejected" or event.error is None
    assert path.stem.startswith("rejected") == (event.type == "rejected")


def test_there_are_golden_messages_of_both_kinds():
    accepted = [path for path in GOLDEN if path.stem.startswith("accepted")]
    assert len(accepted) >= 10
    assert len(GOLDEN) - len(accepted) >= 30


@pytest.mark.parametrize("path", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_what_is_taken_is_valid_by_the_published_schema_for_another_validator_too(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["event"]["type"] != "rejected":
        jsonschema.Draft202012Validator(change_event_schema()).validate(record["message"])


@pytest.mark.parametrize("path", GOLDEN, ids=[path.stem for path in GOLDEN])
def test_a_rejected_message_is_kept_and_its_error_names_source_message_and_advice(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["event"]["type"] != "rejected" or "message" not in record:
        return
    payload = json.dumps(record["message"]).encode()
    event = decoded(payload)
    assert event.content == payload
    assert event.size_bytes == len(payload)
    assert "'wiki'" in event.error
    assert "kafka:t[0]@1" in event.error
    assert "$" in event.error
    assert "again" in event.error or "replay" in event.error
    assert len(event.error) < 2_000


def test_the_schema_is_a_valid_schema_and_has_no_host_name():
    schema = change_event_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == "lockstep:change_event:1"


def test_the_schema_takes_everything_that_its_first_release_took():
    baseline = json.loads((DATA / "v1.schema.json").read_text(encoding="utf-8"))
    assert breaks(baseline, change_event_schema()) == []


def _changed(change):
    schema = copy.deepcopy(change_event_schema())
    change(schema)
    return breaks(change_event_schema(), schema)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        pytest.param(lambda s: s["required"].append("title"), "title is required", id="a key becomes required"),
        pytest.param(lambda s: s["properties"].pop("author"), "$.author: was removed", id="a key is removed"),
        pytest.param(lambda s: s["properties"]["type"]["enum"].pop(), "delete is no longer", id="a value is removed"),
        pytest.param(lambda s: s["properties"]["schema_version"].update(const=2), "1 is no", id="another constant"),
        pytest.param(lambda s: s["properties"]["uri"].update(type="integer"), "string is no longer", id="another type"),
        pytest.param(
            lambda s: s["properties"]["metadata"]["additionalProperties"].update(type=["string"]),
            "number",
            id="a type fewer",
        ),
        pytest.param(lambda s: s["properties"]["uri"].update(maxLength=100), "maxLength", id="a shorter text"),
        pytest.param(lambda s: s["properties"]["version"].update(minimum=1), "minimum", id="a higher minimum"),
        pytest.param(lambda s: s["properties"]["readers"].update(minItems=1), "minItems", id="a new limit"),
        pytest.param(lambda s: s["properties"]["title"].update(pattern="^a"), "pattern", id="a pattern"),
        pytest.param(lambda s: s["properties"]["created"].update({"$ref": "#/$defs/line"}), "$ref", id="a reference"),
        pytest.param(lambda s: s["$defs"]["time"].update(format="date"), "format", id="another format"),
        pytest.param(lambda s: s["patternProperties"].clear(), "^x-", id="no room for a producer's own"),
        pytest.param(lambda s: s["properties"]["content"]["properties"].pop("text"), ".text: was", id="deep inside"),
        pytest.param(lambda s: s.update({"else": {"required": ["content", "title"]}}), "else", id="a condition"),
        pytest.param(
            lambda s: s["properties"]["content"]["properties"]["pointer"].update(required=["url", "sha256"]),
            "sha256 is required",
            id="deeper inside",
        ),
    ],
)
def test_the_check_of_compatibility_finds(change, place):
    assert any(place in found for found in _changed(change)), _changed(change)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: s["properties"].update(language={"type": "string"}), id="another optional key"),
        pytest.param(lambda s: s["properties"]["type"]["enum"].append("move"), id="another value"),
        pytest.param(lambda s: s["properties"]["uri"].update(maxLength=2_048), id="a longer text"),
        pytest.param(lambda s: s["required"].remove("version"), id="a key that need not be there any more"),
        pytest.param(lambda s: s["properties"]["uri"].update(description="Other words."), id="other words"),
        pytest.param(lambda s: s["properties"]["version"].update(type=["integer", "string"]), id="a type besides"),
    ],
)
def test_the_check_of_compatibility_lets_pass(change):
    assert _changed(change) == []


def test_a_message_above_the_limit_is_rejected_unread_and_kept():
    payload = json.dumps(BASE | {"content": {"text": "x" * 2_000}}).encode()
    event = decoded(payload, max_event_bytes=1_000)
    assert (event.type, event.error_class, event.content) == ("rejected", "TooLarge", payload)
    assert "streams.max_event_bytes" in event.error
    assert decoded(payload, max_event_bytes=len(payload)).type == "upsert"


def test_a_pointer_is_refused_where_no_root_is_configured():
    closed = AnnouncedSection(name="wiki", kind="any")
    event = decoded(BASE | {"content": {"pointer": {"url": "https://files.example.org/docs/a.pdf"}}}, closed)
    assert event.error_class == "PointerRefused"
    assert "pointer_roots" in event.error


def test_an_error_names_every_wrong_place_and_does_not_repeat_the_values():
    event = decoded(BASE | {"version": "secret-value", "title": 3, "readers": ["secret-value"]})
    assert all(place in event.error for place in ("$.version", "$.title", "$.readers[0]"))
    assert "secret-value" not in event.error


def test_the_order_of_keys_and_readers_does_not_change_what_is_announced():
    message = BASE | {"readers": ["user:b", "group:a"], "metadata": {"x": "1", "y": "2"}}
    one = decoded(message | {"metadata": {"y": "2", "x": "1"}})
    other = decoded(dict(reversed((message | {"readers": ["group:a", "user:b"]}).items())))
    assert one.identity("p") == other.identity("p")


def test_the_producers_clock_is_no_part_of_what_is_announced():
    early = decoded(BASE | {"occurred_at": "1990-01-01T00:00:00Z"})
    late = decoded(BASE | {"occurred_at": "2200-01-01T00:00:00Z"})
    assert early.identity("p") == late.identity("p")
    assert late.occurred_at == datetime(2200, 1, 1, tzinfo=UTC)


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b'{"schema_version":1,"type":"delete","uri":"a","version":1}')
def test_any_bytes_give_an_event_and_never_an_exception(payload):
    assert decoded(payload).type in ("rejected", "upsert", "delete")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(change_event_schema()["properties"])), _JSON))
def test_any_values_under_the_known_keys_give_an_event_that_the_log_can_hold(keys):
    event = decoded(BASE | keys)
    texts = [event.uri, event.error or "", json.dumps(dict(event.attributes), ensure_ascii=False, allow_nan=False)]
    assert all(text.encode("utf-8") is not None for text in texts)
    assert event.version is None or 0 <= event.version < 2**63
