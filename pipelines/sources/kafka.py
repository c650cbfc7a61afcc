"""The source `kafka`: its section, how librdkafka is set up for it, and what `lockstep sources check` tries.

Its documents are what its events say (`event_source`); following the topic is `kafka_stream`'s.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.errors import ConfigError, LockstepError, SourceError, SourceForbidden
from pipelines.sources.announcements import AnnouncedSection
from pipelines.sources.base import Check, Stream
from pipelines.sources.section import Variable, secret

if TYPE_CHECKING:
    from pipelines.sources.event_source import EventSource
    from pipelines.sources.surroundings import Surroundings

_ANSWER_SECONDS = 10.0
_READ_SECONDS = 5.0
_SLICE_SECONDS = 1.0
_SECRET = re.compile(r"password|secret|\.pem$|jaas|token|^sasl\.username$")
_OURS = re.compile(
    r"^(enable\.auto\.commit|enable\.auto\.offset\.store|auto\.offset\.reset|group\.|bootstrap\.servers|"
    r"metadata\.broker\.list|security\.protocol|sasl\.mechanisms?|partition\.assignment\.strategy|"
    r"allow\.auto\.create\.topics|ssl\.ca\.location|.*_cb|plugin\.|.*\.cmd|ssl\.engine)"
)


class KafkaSource(AnnouncedSection):
    """A topic of change events (docs/events.md)."""

    kind: Literal["kafka"]
    bootstrap_servers: str = Field(min_length=1)  # host:port, several with commas
    topic: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")
    group: str | None = Field(default=None, min_length=1, max_length=249)  # None: lockstep.INDEX.SOURCE
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username_env: Variable | None = None
    password_env: Variable | None = None
    ca_location: Path | None = None  # certificates that vouch for the brokers; None: the system's
    schema_registry_url: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")
    schema_registry_username_env: Variable | None = None
    schema_registry_password_env: Variable | None = None
    tombstones: Literal["reject", "ignore"] = "reject"  # a message without value and without the header "version"
    options: dict[str, str] = Field(default_factory=dict)  # of librdkafka, such as client.id; never secrets

    @field_validator("options")
    @classmethod
    def _options_are_free(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            if _SECRET.search(name):
                raise ValueError(f"{name} is a secret; use `username_env` and `password_env`, or files")
            if _OURS.match(name):
                raise ValueError(f"{name} is set by Lockstep, as offsets must not move before events are durable")
        return options

    @model_validator(mode="after")
    def _credentials_go_together(self) -> Self:
        named = self.username_env is not None and self.password_env is not None
        if self.security_protocol.startswith("SASL") and not (named and self.sasl_mechanism):
            raise ValueError(
                f"`security_protocol: {self.security_protocol}` needs `sasl_mechanism`, `username_env`, `password_env`"
            )
        if (self.schema_registry_username_env is None) != (self.schema_registry_password_env is None):
            raise ValueError("`schema_registry_username_env` and `schema_registry_password_env` go together")
        return self

    def located(self, folder: Path) -> Self:
        """With `ca_location` taken from the configuration file's folder."""
        if self.ca_location is None:
            return self
        return self.model_copy(update={"ca_location": folder / self.ca_location.expanduser()})


def group_of(section: KafkaSource, index: str) -> str:
    """The consumer group whose offsets say how far the topic was read."""
    return section.group or f"lockstep.{index}.{section.name}"


def settings(section: KafkaSource) -> dict[str, Any]:
    """Of librdkafka, for any client of this source.

    Raises:
        ConfigError: a secret is not set.
    """
    chosen: dict[str, Any] = {
        **section.options,
        "bootstrap.servers": section.bootstrap_servers,
        "security.protocol": section.security_protocol,
        "allow.auto.create.topics": False,
        "log_level": 2,  # errors reach us as such
    }
    if section.ca_location is not None:
        chosen["ssl.ca.location"] = str(section.ca_location)
    if section.security_protocol.startswith("SASL"):
        assert section.username_env and section.password_env
        chosen["sasl.mechanism"] = section.sasl_mechanism
        chosen["sasl.username"] = secret(section, section.username_env)
        chosen["sasl.password"] = secret(section, section.password_env)
    return chosen


def explained(section: KafkaSource, error: Any, doing: str) -> SourceError:
    """A KafkaError as one of ours, with what to do.

    Args:
        section: the source.
        error: of confluent_kafka.
        doing: what was tried, such as "reading the topic".
    """
    from confluent_kafka import KafkaError

    begin = f"source {section.name!r}, topic {section.topic!r} on {section.bootstrap_servers}: {doing}"
    said = f"{error.name()}: {error.str()}"
    code = error.code()
    if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        names = f"{section.username_env} and {section.password_env}"
        return SourceForbidden(f"{begin}: the credentials are not accepted ({said}); correct {names}")
    if code == KafkaError._SSL:
        return SourceForbidden(f"{begin}: no trusted connection ({said}); correct `ca_location` and the host name")
    if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        return SourceForbidden(f"{begin}: this user may not read it; allow READ and DESCRIBE on the topic ({said})")
    if code == KafkaError.GROUP_AUTHORIZATION_FAILED:
        return SourceForbidden(f"{begin}: this user may not use the group; allow READ on it ({said})")
    if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return SourceError(
            f"{begin}: there is no such topic (any more); create it and have its producer send every document, or "
            "correct the key `topic`. What was announced before stays as it is, and nothing is deleted"
        )
    unreachable = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._RESOLVE)
    if code in unreachable:
        return SourceError(f"{begin}: no broker answers ({said}); start it, or correct the key `bootstrap_servers`")
    return SourceError(f"{begin}: {said}; nothing was lost, the next run tries again")


def open_kafka(section: KafkaSource, around: Surroundings) -> EventSource:
    """The documents that the topic's events have announced so far."""
    from pipelines.sources.event_source import EventSource

    return EventSource(section, around, lambda: check(section, around.index))


def open_kafka_stream(section: KafkaSource, around: Surroundings) -> Stream:
    """The topic, followed as a member of the source's consumer group.

    Raises:
        ConfigError: a secret is not set.
        SourceError: no broker answers, or the topic is not there.
    """
    from pipelines.sources.kafka_stream import KafkaStream

    return KafkaStream(section, group_of(section, around.index), around.streams.max_event_bytes)


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
        topic = _asked(section, consumer, failed)
        yield Check(step, True, f"a broker of {section.bootstrap_servers} answers")
        step = "topic"
        found = _partitions(section, topic)
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


def topic_partitions(section: KafkaSource, consumer: Any, failed: list[Any]) -> list[int]:
    """The partitions of the topic, by a broker's own word.

    Args:
        section: the source.
        consumer: asks.
        failed: errors of the client as such, which its error callback collects.

    Raises:
        SourceError: no broker answers, the topic is not there, or may not be seen.
    """
    return _partitions(section, _asked(section, consumer, failed))


def _asked(section: KafkaSource, consumer: Any, failed: list[Any]) -> Any:
    """What a broker says about the topic."""
    from confluent_kafka import KafkaException

    failed.clear()
    deadline = time.monotonic() + _ANSWER_SECONDS
    while True:
        try:
            return consumer.list_topics(section.topic, timeout=_SLICE_SECONDS).topics[section.topic]
        except KafkaException as error:
            consumer.poll(0)  # hands over what the client has to say: wrong credentials look like silence otherwise
            if failed or time.monotonic() > deadline:
                raise explained(section, telling(failed) or error.args[0], "asking for the topic") from error


def _partitions(section: KafkaSource, topic: Any) -> list[int]:
    if topic.error is not None:
        raise explained(section, topic.error, "asking for the topic")
    return sorted(topic.partitions)


def telling(failed: list[Any]) -> Any:
    """Of several errors of a client the one that says why: refused credentials rather than lost connections."""
    from confluent_kafka import KafkaError

    why = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE)
    return next((error for error in failed if error.code() in why), failed[-1] if failed else None)


def _registry_check(section: KafkaSource) -> Check:
    from pipelines.sources.schema_registry import SchemaRegistry

    try:
        with SchemaRegistry(section) as registry:
            return Check("registry", True, registry.answers())
    except LockstepError as error:
        return Check("registry", False, str(error))
