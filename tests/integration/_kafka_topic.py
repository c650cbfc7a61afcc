"""A topic of its own for one test, what is said in it, and what the log must say in the end."""

import json
import random
import time
import uuid

from pipelines.home import Home
from pipelines.sources.kafka.section import KafkaSource
from pipelines.sources.registry import open_source, open_stream
from pipelines.sources.surroundings import Surroundings
from tests.source_contract import uris

PATIENCE_SECONDS = 60.0


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
