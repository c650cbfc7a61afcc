"""A followed topic while members die, partitions move, offsets are rewound, topics go and the broker is killed."""

import signal
import subprocess
import sys
import time

import pytest

from pipelines.errors import SourceError
from tests.integration._kafka_topic import PATIENCE_SECONDS, Topic, announced, assert_right
from tests.source_contract import uris

pytestmark = pytest.mark.integration


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.home import Home
from pipelines.sources.kafka.section import KafkaSource
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
