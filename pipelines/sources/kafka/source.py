"""The source `kafka`: its documents are what the topic's events say (`event_source`); `stream` follows the topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.sources.kafka.section import KafkaSource, group_of

if TYPE_CHECKING:
    from pipelines.sources.announced.event_source import EventSource
    from pipelines.sources.base import Stream
    from pipelines.sources.surroundings import Surroundings


def open_kafka(section: KafkaSource, around: Surroundings) -> EventSource:
    """The documents that the topic's events have announced so far."""
    from pipelines.sources.announced.event_source import EventSource
    from pipelines.sources.kafka.checking import check

    return EventSource(section, around, lambda: check(section, around.index))


def open_kafka_stream(section: KafkaSource, around: Surroundings) -> Stream:
    """The topic, followed as a member of the source's consumer group.

    Raises:
        ConfigError: a secret is not set.
        SourceError: no broker answers, or the topic is not there.
    """
    from pipelines.sources.kafka.stream import KafkaStream

    return KafkaStream(section, group_of(section, around.index), around.streams.max_event_bytes)
