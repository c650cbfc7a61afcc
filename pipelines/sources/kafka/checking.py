"""What `lockstep sources check` tries of a topic: a broker, the topic, its messages, the group, the schema registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.errors import ConfigError, LockstepError, SourceError
from pipelines.sources.base import Check
from pipelines.sources.kafka.client import ask_for_topic, explained, partitions_of, settings
from pipelines.sources.kafka.section import KafkaSource, group_of

_ANSWER_SECONDS = 10.0
_READ_SECONDS = 5.0


def check(section: KafkaSource, index: str) -> Iterator[Check]:
    """Whether a broker answers, the topic is there, it and the group may be used, and the registry answers."""
    from confluent_kafka import Consumer, KafkaException

    failed: list[Any] = []
    group = group_of(section, index)
    try:
        consumer = Consumer(
            {**settings(section), "group.id": group, "enable.auto.commit": False}, error_cb=failed.append
        )
    except (ConfigError, KafkaException) as error:
        yield Check("connect", False, str(error))
        return
    try:
        yield from _tried(section, group, consumer, failed)
    finally:
        consumer.close()
    if section.schema_registry_url is not None:
        yield _registry_check(section)


def _tried(section: KafkaSource, group: str, consumer: Any, failed: list[Any]) -> Iterator[Check]:
    from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

    step = "connect"
    try:
        topic = ask_for_topic(section, consumer, failed)
        yield Check(step, True, f"a broker of {section.bootstrap_servers} answers")
        step = "topic"
        found = partitions_of(section, topic)
        yield Check(step, True, f"the topic {section.topic!r} has {len(found)} partitions")
        step = "read"
        consumer.assign([TopicPartition(section.topic, found[0], OFFSET_BEGINNING)])
        message = consumer.poll(_READ_SECONDS)
        if message is not None and message.error():
            raise explained(section, message.error(), "reading")
        yield Check(step, True, "its messages may be read" if message is not None else "nothing forbids to read it")
        step = "group"
        committed = consumer.committed([TopicPartition(section.topic, found[0])], timeout=_ANSWER_SECONDS)
        if committed[0].error:
            raise explained(section, committed[0].error, f"asking for the offsets of group {group!r}")
        yield Check(step, True, f"the group {group!r} may be used")
    except KafkaException as error:
        yield Check(step, False, str(explained(section, error.args[0], f"asking for the group {group!r}")))
    except SourceError as error:
        yield Check(step, False, str(error))


def _registry_check(section: KafkaSource) -> Check:
    from pipelines.sources.kafka.schema_registry import SchemaRegistry

    try:
        with SchemaRegistry(section) as registry:
            return Check("registry", True, registry.answers())
    except LockstepError as error:
        return Check("registry", False, str(error))
