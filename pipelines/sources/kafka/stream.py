"""Following a topic: messages become events, and offsets move only when those events are durable.

One stream is one member of the source's consumer group. Several may follow one topic; each then has its own partitions,
and when these move, what was not acknowledged comes again at the member that has them next.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipelines.errors import ConfigError, SourceError
from pipelines.lake.events import Event
from pipelines.sources.announced.announcements import SCHEMA_VERSION, decode, rejected
from pipelines.sources.base import Lag, Received
from pipelines.sources.kafka.client import explained, settings, telling, topic_partitions
from pipelines.sources.kafka.schema_registry import SchemaRegistry, UnknownSchema
from pipelines.sources.kafka.section import KafkaSource

_SLICE_SECONDS = 0.1  # between two looks at what the client has to say while nothing arrives
_PIECE_MESSAGES = 500
_MOST_BYTES = 64 * 1024 * 1024  # of payloads in one answer; what is above waits in the broker
_ANSWER_SECONDS = 10.0
_VERSION_HEADER = "version"


class KafkaStream:
    """The announcements in a topic.

    Args:
        section: the source.
        group: its consumer group.
        max_event_bytes: a longer message is an event of type "rejected".

    Raises:
        ConfigError: a secret is not set, or librdkafka does not know one of `options`.
        SourceError: no broker answers, or the topic is not there.
    """

    def __init__(self, section: KafkaSource, group: str, max_event_bytes: int) -> None:
        from confluent_kafka import Consumer, KafkaException

        self._section = section
        self._group = group
        self._max_event_bytes = max_event_bytes
        self._failed: list[Any] = []
        self._asking: Any = None
        self._pending: dict[int, dict[int, float]] = {}  # partition: offset: time stamp, in seconds; not acknowledged
        self._next: dict[int, int] = {}  # partition: the offset after the last one that was handed out
        self._newest: dict[int, float] = {}  # partition: time stamp of the last one that was handed out
        self._registry = SchemaRegistry(section) if section.schema_registry_url else None
        try:
            self._consumer = Consumer(
                {
                    "fetch.wait.max.ms": 100,
                    "socket.timeout.ms": 10_000,  # how long a commit waits for a broker that died
                    "session.timeout.ms": 10_000,  # until the partitions of a member that was killed go to another
                    "queued.max.messages.kbytes": 32 * 1024,
                    "fetch.max.bytes": 32 * 1024 * 1024,
                    **settings(section),
                    "group.id": group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                    "partition.assignment.strategy": "cooperative-sticky",
                },
                error_cb=self._failed.append,
            )
        except KafkaException as error:
            raise ConfigError(f"source {section.name!r}: `options`: {error.args[0].str()}; correct them") from error
        try:
            topic_partitions(section, self._asker(), self._failed)
            self._consumer.subscribe([section.topic], on_revoke=self._forget, on_lost=self._forget)
        except SourceError:
            self.close()
            raise

    def receive(self, *, limit: int, wait_seconds: float) -> Sequence[Received]:
        """See `Stream`. What an earlier call gave and nobody acknowledged comes first, again."""
        self._again({partition: min(offsets) for partition, offsets in self._pending.items() if offsets})
        self._failed.clear()
        messages = self._messages(limit, wait_seconds)
        if not messages:
            self._explain_silence()
            return []
        received: list[Received] = []
        try:
            received += (self._received(message) for message in messages)
        except SourceError:  # the registry: what it was not asked about is handed out later
            self._again(_firsts(messages))
            raise
        for message in messages:
            stamp = _stamp(message)
            self._pending.setdefault(message.partition(), {})[message.offset()] = stamp
            self._next[message.partition()] = message.offset() + 1
            self._newest[message.partition()] = stamp
        return received

    def acknowledge(self, received: Sequence[Received]) -> None:
        """Commit, of each partition, up to the first message that is not acknowledged yet."""
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        touched: set[int] = set()
        for one in received:
            assert isinstance(one.receipt, tuple)
            partition, offset = one.receipt
            if self._pending.get(partition, {}).pop(offset, None) is not None:
                touched.add(partition)
        offsets = [
            TopicPartition(self._section.topic, partition, min(self._pending[partition], default=self._next[partition]))
            for partition in sorted(touched)
        ]
        if not offsets:
            return
        try:
            committed = self._consumer.commit(offsets=offsets, asynchronous=False)
            error = next((one.error for one in committed if one.error is not None), None)
        except KafkaException as failure:
            error = failure.args[0]
        moved = (KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID)
        if error is not None and error.code() not in moved:  # partitions that move bring their messages once more
            raise explained(self._section, error, "committing offsets")

    def lag(self) -> Lag:
        """Messages behind the committed offsets of the whole topic; the age is that of the oldest, or a little more.

        Unknown while the group's broker changes.

        Raises:
            SourceError: no broker answers.
        """
        from confluent_kafka import KafkaException, TopicPartition

        topic = self._section.topic
        try:
            asker = self._asker()
            partitions = [TopicPartition(topic, one) for one in topic_partitions(self._section, asker, self._failed)]
            waiting, oldest = 0, None
            for one in asker.committed(partitions, timeout=_ANSWER_SECONDS):
                low, high = asker.get_watermark_offsets(TopicPartition(topic, one.partition), timeout=_ANSWER_SECONDS)
                at = one.offset if low <= one.offset <= high else low
                if high > at:
                    waiting += high - at
                    stamp = self._waits_since(one.partition, at)
                    oldest = stamp if oldest is None else min(oldest, stamp)
        except KafkaException as error:
            if error.args[0].code() in _coordinator_moves():
                return Lag(None)
            raise explained(self._section, error.args[0], "asking for the lag") from error
        return Lag(waiting, None if oldest is None else max(0.0, time.time() - oldest))

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        if self._registry is not None:
            self._registry.close()
        if self._asking is not None:
            self._asking.close()
        self._consumer.close()

    def _messages(self, limit: int, wait_seconds: float) -> list[Any]:
        """At most `limit`, and of payloads little more than `_MOST_BYTES`; waits for the first one only."""
        found: list[Any] = []
        size = 0
        deadline = time.monotonic() + wait_seconds
        while len(found) < limit and size < _MOST_BYTES:
            wait = 0.0 if found else max(0.0, min(_SLICE_SECONDS, deadline - time.monotonic()))
            some = self._consumer.consume(min(limit - len(found), _PIECE_MESSAGES) if found else 1, timeout=wait)
            for message in some:
                if message.error() is not None:
                    self._failed.append(message.error())
                    continue
                found.append(message)
                size += len(message.value() or b"") + len(message.key() or b"")
            over = time.monotonic() >= deadline
            if not some and (found or over or (telling(self._failed) is not None and self._refused())):
                break
        return found

    def _refused(self) -> bool:
        """Whether waiting longer is in vain."""
        from confluent_kafka import KafkaError

        vain = (
            KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC,
        )  # fmt: skip
        return any(error.code() in vain for error in self._failed)

    def _explain_silence(self) -> None:
        """Nothing came: is there nothing, or is something wrong?"""
        if self._refused():
            raise explained(self._section, telling(self._failed), "reading")
        topic_partitions(self._section, self._asker(), self._failed)

    def _received(self, message: Any) -> Received:
        return Received(self._events(message), (message.partition(), message.offset()))

    def _events(self, message: Any) -> tuple[Event, ...]:
        section, payload = self._section, message.value()
        origin = f"kafka:{message.topic()}[{message.partition()}]@{message.offset()}"
        now = datetime.now(UTC)
        if payload is None:
            return self._tombstone(message, origin, now)
        if self._registry is not None:
            try:
                payload = self._registry.unframed(payload)
            except UnknownSchema as error:
                return (rejected(message.value(), section, "UnknownSchema", str(error), origin, now),)
        return (decode(payload, section, origin=origin, received_at=now, max_event_bytes=self._max_event_bytes),)

    def _tombstone(self, message: Any, origin: str, now: datetime) -> tuple[Event, ...]:
        """A message without value: a deletion when its key is a uri and its header `version` says of which version."""
        key = message.key() or b""
        version = dict(message.headers() or ()).get(_VERSION_HEADER)
        if version is None and self._section.tombstones == "ignore":
            return ()
        try:
            number = (version or b"").decode("ascii")
            says = {
                "schema_version": SCHEMA_VERSION,
                "type": "delete",
                "uri": key.decode("utf-8"),
                "version": int(number),
            }
            event = decode(json.dumps(says).encode(), self._section, origin=origin, received_at=now)
            if event.type == "delete" and number.isdigit():
                return (event,)
        except ValueError:
            pass
        text = (
            "it has no value, and so is a deletion only with the document's uri as its key and a whole number in the "
            'header "version"; send an event of type "delete", or set `tombstones: ignore` where these only tidy up'
        )
        return (rejected(key, self._section, "Tombstone", text, origin, now),)

    def _again(self, offsets: dict[int, int]) -> None:
        """Have those partitions handed out once more, from there on."""
        from confluent_kafka import KafkaException, TopicPartition

        for partition, offset in offsets.items():
            self._pending.pop(partition, None)
            try:
                self._consumer.seek(TopicPartition(self._section.topic, partition, offset))
            except KafkaException as error:
                raise explained(self._section, error.args[0], "going back to what was not acknowledged") from error

    def _forget(self, _consumer: Any, partitions: Sequence[Any]) -> None:
        """Partitions that went to another member: what is open there is no longer ours."""
        for one in partitions:
            for kept in (self._pending, self._next, self._newest):
                kept.pop(one.partition, None)

    def _waits_since(self, partition: int, offset: int) -> float:
        """When the message there was produced: exactly, or at most that long ago, in seconds since 1970."""
        if self._pending.get(partition):
            return min(self._pending[partition].values())
        if partition in self._newest:
            return self._newest[partition]  # the one before it: not younger
        return self._peeked(partition, offset)

    def _peeked(self, partition: int, offset: int) -> float:
        """The time stamp of a message that another member has, or that nobody has yet."""
        from confluent_kafka import TopicPartition

        asker = self._asker()
        asker.assign([TopicPartition(self._section.topic, partition, offset)])
        message = asker.poll(_ANSWER_SECONDS)
        asker.unassign()
        return time.time() if message is None or message.error() else _stamp(message)

    def _asker(self) -> Any:
        """A client that is no member of the group and fetches nothing, so that its questions wait behind nothing."""
        from confluent_kafka import Consumer

        if self._asking is None:
            chosen = {**settings(self._section), "group.id": self._group, "enable.auto.commit": False}
            self._asking = Consumer(chosen, error_cb=self._failed.append)
        return self._asking


def _coordinator_moves() -> tuple[int, ...]:
    """Codes that say: the broker that keeps the group's offsets is not known yet, ask again."""
    from confluent_kafka import KafkaError

    return (
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._WAIT_COORD,
    )


def _stamp(message: Any) -> float:
    """When a message was produced, in seconds since 1970; now, where it does not say."""
    kind, milliseconds = message.timestamp()
    return float(milliseconds) / 1_000 if kind else time.time()


def _firsts(messages: Sequence[Any]) -> dict[int, int]:
    first: dict[int, int] = {}
    for message in messages:
        first[message.partition()] = min(first.get(message.partition(), message.offset()), message.offset())
    return first
