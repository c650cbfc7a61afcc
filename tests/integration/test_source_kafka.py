"""The source `kafka` against a real broker: the contract, what cannot be understood, credentials, a schema registry."""

import json
import time

import pytest

from pipelines.errors import SourceError, SourceForbidden
from pipelines.home import Home
from pipelines.sources.announced.announcements import change_event_schema
from pipelines.sources.kafka.section import KafkaSource
from pipelines.sources.registry import open_source, open_stream
from pipelines.sources.surroundings import Surroundings
from tests.integration._kafka_topic import PATIENCE_SECONDS, Topic, announced, assert_right
from tests.integration.servers.kafka import PASSWORD, USER
from tests.integration.servers.schema_registry import schema_registry
from tests.source_contract import Harness, SourceContract, uris

pytestmark = pytest.mark.integration


class KafkaHarness(Harness):
    streams = True

    def __init__(self, broker, folder):
        self.topic = Topic(broker, folder, max_bytes=1_000)
        self.section = self.topic.section
        others = self.section.model_copy(update={"group": "harness"})
        self._follower = open_stream(others, self.topic.around())
        self._version = 0

    def open(self):
        return self.topic.source()

    def open_stream(self):
        return self.topic.stream()

    def put(self, uri, content):
        self._say(uri=uri, content={"text": content.decode()})

    def delete(self, uri):
        self._say(uri=uri, type="delete")

    def _say(self, **keys):
        self._version += 1
        self.topic.say(version=self._version, **keys)
        self.topic.flush()
        while not self.topic.take(self._follower)[0]:
            pass

    @property
    def _commits(self):
        return (self.topic.home.lake / "change_events" / "_delta_log").glob("*.json")

    def break_(self):
        for path in self._commits:
            path.write_bytes(b"no log" + path.read_bytes())

    def mend(self):
        for path in self._commits:
            path.write_bytes(path.read_bytes().removeprefix(b"no log"))

    def close(self):
        self._follower.close()


class TestKafka(SourceContract):
    @pytest.fixture
    def harness(self, broker, tmp_path):
        harness = KafkaHarness(broker, tmp_path)
        yield harness
        harness.close()


def test_repeated_events_in_any_order_end_at_the_last_version_of_each_document(broker, tmp_path):
    topic = Topic(broker, tmp_path, partitions=3)
    events, last = announced(400, 5, seed=1)
    assert len(events) == 2_400
    for event in events:
        topic.say(**event)
    topic.flush()
    stream = topic.stream()
    assert topic.take_all(stream) == [2_400]
    stream.close()
    assert_right(topic, events, last)


def test_what_was_received_and_not_acknowledged_comes_again(topic):
    for number in range(5):
        topic.say(uri=f"d{number}", version=1, content={"text": "x"})
    topic.flush()
    stream = topic.stream()
    first = stream.receive(limit=3, wait_seconds=20)
    assert [one.receipt for one in stream.receive(limit=len(first), wait_seconds=20)] == [one.receipt for one in first]
    assert stream.lag().messages == 5
    assert stream.lag().oldest_seconds > 0
    assert sum(topic.take_all(stream)) == 5
    assert (stream.lag().messages, stream.lag().oldest_seconds) == (0, None)
    stream.close()


def test_what_is_acknowledged_out_of_order_is_committed_only_up_to_the_first_gap(topic):
    for number in range(4):
        topic.say(uri=f"d{number}", version=1, content={"text": "x"})
    topic.flush()
    stream = topic.stream()
    received = []
    while len(received) < 4:
        received = stream.receive(limit=10, wait_seconds=5)
    stream.acknowledge([received[0], received[3]])
    assert stream.lag().messages == 3
    stream.acknowledge(received[1:3])
    assert stream.lag().messages == 0
    stream.close()


def test_no_more_is_received_than_was_asked_for(topic):
    for number in range(50):
        topic.say(uri=f"d{number}", version=1, content={"text": "x"})
    topic.flush()
    stream = topic.stream()
    received, _ = topic.take(stream, limit=7, wait_seconds=20)
    assert 0 < len(received) <= 7
    started = time.monotonic()
    topic.take_all(stream)
    assert topic.take(stream, wait_seconds=0)[0] == []
    assert time.monotonic() - started < 20
    stream.close()


def test_what_cannot_be_understood_is_kept_as_rejected_and_stops_nothing(topic):
    bad = [b"\x00\x01\xff", b"not json", b"{}", b"x" * 9_000_000, b"[" * 5_000, b""]
    for payload in bad:
        topic.send(payload)
    topic.say(uri="a", version=1, content={"text": "x"}, readers=["staff"])
    topic.say(uri="a", version=2, content={"text": "good"})
    topic.producer.flush(PATIENCE_SECONDS)
    stream = topic.stream()
    topic.take_all(stream)
    stream.close()
    rows = topic.rows("rejected")
    assert {row["error_class"] for row in rows} == {"NotUtf8", "NotJson", "SchemaViolation", "TooLarge"}
    assert len(rows) == len(bad) + 1
    assert all(row["origin"].startswith(f"kafka:{topic.name}[0]@") for row in rows)
    blobs = topic.around().blobs
    assert {blobs.read(row["content_hash"]) for row in rows} >= set(bad)
    assert [(row["uri"], row["version"]) for row in topic.rows()] == [("a", 2)]


def test_a_message_without_value_deletes_with_a_version_and_is_rejected_without(topic):
    topic.say(uri="a", version=1, content={"text": "x"})
    topic.say(uri="b", version=1, content={"text": "x"})
    topic.send(None, key=b"a", headers={"version": b"2"})
    topic.send(None, key=b"b")
    topic.send(None, key=b"b", headers={"version": b"-1"})
    topic.send(None, key=b"b", headers={"version": b"two"})
    topic.send(None, headers={"version": b"2"})
    topic.flush()
    stream = topic.stream()
    topic.take_all(stream)
    stream.close()
    assert uris(topic.source().list()) == {"b"}
    assert [row["error_class"] for row in topic.rows("rejected")] == ["Tombstone"] * 4


def test_messages_without_value_that_only_tidy_up_can_be_ignored(broker, tmp_path):
    topic = Topic(broker, tmp_path, tombstones="ignore")
    topic.send(None, key=b"a")
    topic.flush()
    stream = topic.stream()
    assert topic.take_all(stream) == [1]
    stream.close()
    assert topic.rows("rejected", "upsert", "delete") == []


def test_credentials_that_are_not_accepted_are_told_as_such(broker, tmp_path, monkeypatch):
    keys = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
    names = {"username_env": "TEST_KAFKA_USER", "password_env": "TEST_KAFKA_PASSWORD"}
    topic = Topic(broker, tmp_path, bootstrap_servers=broker.sasl_servers, **keys, **names)
    monkeypatch.setenv("TEST_KAFKA_USER", USER)
    monkeypatch.setenv("TEST_KAFKA_PASSWORD", "not the secret")
    with pytest.raises(SourceForbidden, match="TEST_KAFKA_PASSWORD") as refused:
        topic.stream()
    assert "not the secret" not in str(refused.value)
    failed = [check for check in topic.source().check() if not check.ok]
    assert "TEST_KAFKA_USER" in failed[0].message
    monkeypatch.setenv("TEST_KAFKA_PASSWORD", PASSWORD)
    topic.say(uri="a", version=1, content={"text": "x"})
    topic.flush()
    stream = topic.stream()
    topic.take_all(stream)
    stream.close()
    assert uris(topic.source().list()) == {"a"}
    checks = list(topic.source().check())
    assert [check.name for check in checks] == ["connect", "topic", "read", "group", "events"]
    assert all(check.ok for check in checks)


def test_a_broker_that_is_not_there_is_an_error_within_seconds(tmp_path, broker):
    section = KafkaSource(name="wiki", kind="kafka", topic="t", bootstrap_servers="127.0.0.1:9")
    around = Surroundings.of(Home(tmp_path))
    with pytest.raises(SourceError, match="bootstrap_servers"):
        open_stream(section, around)
    failed = [check for check in open_source(section, around).check() if not check.ok]
    assert "127.0.0.1:9" in failed[0].message


def test_messages_framed_for_a_schema_registry_are_looked_up_there(broker, tmp_path):
    with schema_registry(tmp_path) as registry:
        topic = Topic(broker, tmp_path, schema_registry_url=registry.url)
        ours = registry.register("events-value", json.dumps(change_event_schema()), "JSON")
        avro = registry.register("other-value", '{"type":"record","name":"x","fields":[]}', None)
        good = json.dumps({"schema_version": 1, "type": "upsert", "uri": "a", "version": 1, "content": {"text": "x"}})

        def framed(schema_id, text):
            return b"\x00" + schema_id.to_bytes(4, "big") + text.encode()

        messages = [framed(ours, good), framed(avro, good), framed(9_999, good), good.encode(), framed(ours, "{}")]
        for payload in messages:
            topic.send(payload)
        topic.flush()
        stream = topic.stream()
        topic.take_all(stream)
        stream.close()
        assert uris(topic.source().list()) == {"a"}
        classes = [row["error_class"] for row in topic.rows("rejected")]
        assert classes == ["UnknownSchema", "UnknownSchema", "UnknownSchema", "SchemaViolation"]
        assert all(check.ok for check in topic.source().check())
    topic.send(framed(ours, good.replace('"a"', '"b"')))
    topic.flush()
    stream = topic.stream()
    with pytest.raises(SourceError, match="schema registry"):
        topic.take_all(stream)
    assert stream.lag().messages == 1
    stream.close()
    assert not next(check for check in topic.source().check() if check.name == "registry").ok
