"""How librdkafka is set up for a source, and what a broker says about its topic: its errors with what to do."""

from __future__ import annotations

import time
from typing import Any

from pipelines.errors import SourceError, SourceForbidden
from pipelines.sources.kafka.section import KafkaSource
from pipelines.sources.section import secret

_ANSWER_SECONDS = 10.0
_SLICE_SECONDS = 1.0


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


def topic_partitions(section: KafkaSource, consumer: Any, failed: list[Any]) -> list[int]:
    """The partitions of the topic, by a broker's own word.

    Args:
        section: the source.
        consumer: asks.
        failed: errors of the client as such, which its error callback collects.

    Raises:
        SourceError: no broker answers, the topic is not there, or may not be seen.
    """
    return partitions_of(section, ask_for_topic(section, consumer, failed))


def ask_for_topic(section: KafkaSource, consumer: Any, failed: list[Any]) -> Any:
    """What a broker says about the topic; `failed` is emptied first.

    Raises:
        SourceError: no broker answers, or the credentials are not accepted.
    """
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


def partitions_of(section: KafkaSource, topic: Any) -> list[int]:
    """The partitions in what `ask_for_topic` gave.

    Raises:
        SourceError: the topic is not there, or may not be seen.
    """
    if topic.error is not None:
        raise explained(section, topic.error, "asking for the topic")
    return sorted(topic.partitions)


def telling(failed: list[Any]) -> Any:
    """Of several errors of a client the one that says why: refused credentials rather than lost connections."""
    from confluent_kafka import KafkaError

    why = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE)
    return next((error for error in failed if error.code() in why), failed[-1] if failed else None)
