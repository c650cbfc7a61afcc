"""The source `kafka` against a real broker: nothing lost, nothing doubled, whatever dies, moves or is rewound."""

import json
import random
import signal
import subprocess
import sys
import time
import uuid

import pytest

from pipelines.errors import SourceError, SourceForbidden
from pipelines.home import Home
from pipelines.sources.announcements import change_event_schema
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.registry import open_source, open_stream
from pipelines.sources.surroundings import Surroundings
from tests.integration.servers.kafka import PASSWORD, USER, kafka
from tests.integration.servers.schema_registry import schema_registry
from tests.source_contract import Harness, SourceContract, uris

pytestmark = pytest.mark.integration
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with kafka(tmp_path_factory.mktemp("kafka")) as running:
        yield running


class Topic:
    """A topic of its own, its producer, and the source that follows it."""

    def __init__(self, broker, folder, partitions=1, **keys):
        self.broker, self.name = broker, f"t-{uuid.uuid4().hex[:12]}"
        broker.create_topic(self.name, partitions)
        self.home = Home(folder / "home")
        keys = {"bootstrap_servers": broker.servers} | keys
        self.section = KafkaSource(name="wiki", kind="kafka", topic=self.name, **keys)
        self.producer = broker.producer(**{"message.max.bytes": 20_000_000})

    def send(self, value, key=None, **options):
        self.producer.produce(self.name, value=value, key=key, **options)
        self.producer.poll(0)

    def say(self, **keys):
        message = {"schema_version": 1, "type": "upsert"} | keys
        self.send(json.dumps(message).encode(), key=keys["uri"].encode())

    def flush(self):
        assert self.producer.flush(PATIENCE_SECONDS) == 0

    def around(self):
        return Surroundings.of(self.home, index="test")

    def source(self):
        return open_source(self.section, self.around())

    def stream(self):
        return open_stream(self.section, self.around())

    @property
    def log(self):
        return self.around().events

    def take(self, stream, **limits):
        """One turn: receive, make durable, acknowledge."""
        received = stream.receive(**({"limit": 1_000, "wait_seconds": 1.0} | limits))
        appended = self.log.append([event for one in received for event in one.events])
        stream.acknowledge(received)
        return received, appended

    def take_all(self, *streams):
        """Turns until the group has read everything; the messages by stream."""
        taken = [0] * len(streams)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while streams[0].lag().messages != 0:
            assert time.monotonic() < deadline, f"still behind: {streams[0].lag()}"
            for position, stream in enumerate(streams):
                taken[position] += len(self.take(stream)[0])
        return taken

    def rows(self, *types):
        return self.log.after("wiki", 0, list(types or ("upsert", "delete"))).to_pylist()


@pytest.fixture
def topic(broker, tmp_path):
    return Topic(broker, tmp_path)


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


def announced(documents, versions, seed):
    """Events in any order inside each document, a fifth of them twice; and the last word on each document."""
    chance = random.Random(seed)
    events, last = [], {}
    for number in range(documents):
        uri = f"folder/{number}.md"
        for version in range(1, versions + 1):
            event = {"uri": uri, "version": version}
            if chance.random() < 0.15:
                event |= {"type": "delete"}
            else:
                event |= {"content": {"text": f"{uri} in version {version}"}}
            events.append(event)
        last[uri] = events[-1]
    events += chance.sample(events, len(events) // 5)
    chance.shuffle(events)
    return events, last


def assert_right(topic, events, last):
    rows = topic.rows()
    assert len(rows) == len({(event["uri"], event["version"]) for event in events}), "lost or doubled"
    state = {row["uri"]: (row["type"], row["version"]) for row in topic.log.state("wiki").to_pylist()}
    assert state == {uri: (event.get("type", "upsert"), event["version"]) for uri, event in last.items()}
    there = {uri for uri, event in last.items() if "content" in event}
    source = topic.source()
    assert uris(source.list()) == there
    for answer in source.fetch(sorted(there)[:20]):
        assert answer.content.decode() == last[answer.uri]["content"]["text"]


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


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.home import Home
from pipelines.sources.kafka import KafkaSource
from pipelines.sources.registry import open_stream
from pipelines.sources.surroundings import Surroundings
section = KafkaSource.model_validate_json(sys.argv[1])
around = Surroundings.of(Home(Path(sys.argv[2])), index="test")
stream = open_stream(section, around)
received = []
while not received:
    received = stream.receive(limit=5, wait_seconds=5)
around.events.append([event for one in received for event in one.events])
print(len(received), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_between_making_durable_and_committing_loses_and_doubles_nothing(topic):
    for number in range(10):
        topic.say(uri=f"d{number}", version=1, content={"text": "x"})
    topic.flush()
    arguments = [sys.executable, "-c", KILLED, topic.section.model_dump_json(exclude_none=True), str(topic.home.root)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    before = len(topic.rows())
    assert before == int(ended.stdout) > 0
    stream = topic.stream()
    assert stream.lag().messages == 10
    assert topic.take_all(stream) == [10]  # once the broker has given up the dead member
    stream.close()
    assert sorted(row["uri"] for row in topic.rows()) == sorted(f"d{number}" for number in range(10))


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


def test_a_rewound_topic_adds_nothing_a_second_time(topic):
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    for number in range(20):
        topic.say(uri=f"d{number % 7}", version=number, content={"text": str(number)})
    topic.flush()
    stream = topic.stream()
    topic.take_all(stream)
    stream.close()
    before = topic.log.state("wiki")
    group = "lockstep.test.wiki"
    admin = topic.broker.admin()
    rewound = ConsumerGroupTopicPartitions(group, [TopicPartition(topic.name, 0, 0)])
    admin.alter_consumer_group_offsets([rewound])[group].result(PATIENCE_SECONDS)
    stream = topic.stream()
    assert stream.lag().messages == 20
    assert topic.take_all(stream) == [20]
    stream.close()
    assert len(topic.rows()) == 20
    assert topic.log.state("wiki").equals(before)


def test_two_members_of_a_group_share_the_partitions_and_lose_none_when_one_leaves(broker, tmp_path):
    topic = Topic(broker, tmp_path, partitions=4)
    events, last = announced(100, 4, seed=2)
    half = len(events) // 2
    for event in events[:half]:
        topic.say(**event)
    topic.flush()
    one = topic.stream()
    topic.take(one, limit=50, wait_seconds=20)
    other = topic.stream()
    first = topic.take_all(one, other)
    deadline = time.monotonic() + PATIENCE_SECONDS
    shared = [0, 0]
    number = 0
    while not all(shared):
        assert time.monotonic() < deadline, shared
        topic.send(b"", key=str(number).encode())  # any message: whoever has its partition gets it
        topic.flush()
        number += 1
        for position, stream in enumerate((one, other)):
            shared[position] += len(topic.take(stream, wait_seconds=0.1)[0])
    for event in events[half:]:
        topic.say(**event)
    topic.flush()
    topic.take(one, limit=20)
    one.close()
    assert sum(first) > 0
    topic.take_all(other)
    other.close()
    assert_right(topic, events, last)


def test_a_deleted_topic_is_an_error_that_names_it_and_deletes_no_document(topic):
    topic.say(uri="a", version=1, content={"text": "x"})
    topic.flush()
    stream = topic.stream()
    topic.take_all(stream)
    topic.broker.delete_topic(topic.name)
    with pytest.raises(SourceError, match=topic.name) as told:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            stream.receive(limit=10, wait_seconds=0.2)
    assert "create it" in str(told.value)
    stream.close()
    assert uris(topic.source().list()) == {"a"}
    with pytest.raises(SourceError, match=topic.name):
        topic.stream()
    topic.broker.create_topic(topic.name)
    topic.say(uri="b", version=1, content={"text": "x"})
    topic.flush()
    stream = topic.stream()
    topic.take_all(stream)
    stream.close()
    assert uris(topic.source().list()) == {"a", "b"}


def test_a_broker_that_is_killed_in_the_middle_costs_no_event(topic):
    for number in range(30):
        topic.say(uri=f"d{number}", version=1, content={"text": "x"})
    topic.flush()
    stream = topic.stream()
    topic.take(stream, limit=10, wait_seconds=20)
    received = []
    while not received:
        received = stream.receive(limit=10, wait_seconds=5)
    topic.broker.kill()
    try:
        topic.log.append([event for one in received for event in one.events])
        with pytest.raises(SourceError, match="wiki"):
            stream.acknowledge(received)
            for _ in range(5):
                stream.receive(limit=1_000, wait_seconds=0.5)
                stream.lag()
    finally:
        topic.broker.start()
    stream.close()
    stream = topic.stream()
    topic.say(uri="later", version=1, content={"text": "x"})
    topic.flush()
    topic.take_all(stream)
    stream.close()
    assert sorted(row["uri"] for row in topic.rows()) == sorted([f"d{n}" for n in range(30)] + ["later"])


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
    topic.flush()
    stream = topic.stream()
    topic.take_all(stream)
    stream.close()
    assert uris(topic.source().list()) == {"b"}
    assert [row["error_class"] for row in topic.rows("rejected")] == ["Tombstone"]


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
