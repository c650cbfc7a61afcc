"""The source `webhook`: change events that producers send by HTTP. `lockstep receive` takes them in, unread.

What is here reads them from the inbox, so that a call which nobody understands is durable too and becomes a dead
letter. The calls themselves, signatures and all, belong to `pipelines.service.receiver`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from pipelines.errors import ConfigError, SourceError
from pipelines.sources.announced.announcements import AnnouncedSection, decode
from pipelines.sources.announced.event_source import EventSource
from pipelines.sources.base import Check, Lag, Received
from pipelines.sources.section import Variable, secret
from pipelines.sources.surroundings import Surroundings
from pipelines.sources.webhook.inbox import Inbox

_MOST_BYTES = 64 * 1024 * 1024  # of bodies in memory at a time
_LOOK_SECONDS = 0.1
_SHORTEST_SECRET = 16  # bytes


class WebhookSource(AnnouncedSection):
    """Change events (docs/events.md), each a signed HTTP call (docs/webhooks.md)."""

    kind: Literal["webhook"]
    secret_env: Variable
    secret_env_previous: Variable | None = None  # accepted as well, while producers change to a new secret
    tolerance_seconds: float = Field(default=300, ge=1, le=86_400)  # between a call's time stamp and this clock
    max_waiting: int = Field(default=10_000, ge=1)  # calls in the inbox; then producers are asked to wait

    @property
    def remember_seconds(self) -> float:
        """For how long after a call came the same call could be accepted again, if nobody remembered it."""
        return 2 * self.tolerance_seconds + 60


def secrets(section: WebhookSource) -> tuple[bytes, ...]:
    """The keys that a call may be signed with, the newest first.

    Raises:
        ConfigError: an environment variable is not set.
    """
    names = (section.secret_env, section.secret_env_previous)
    return tuple(secret(section, name).encode() for name in names if name is not None)


def open_webhook(section: WebhookSource, around: Surroundings) -> EventSource:
    """What the calls said so far, as a source."""
    return EventSource(section, around, lambda: _check(section, around))


def open_inbox(section: WebhookSource, around: Surroundings) -> InboxStream:
    """The calls that wait."""
    return InboxStream(section, around)


class InboxStream:
    """Calls that were accepted, oldest first."""

    def __init__(self, section: WebhookSource, around: Surroundings) -> None:
        self._section = section
        self._max_event_bytes = around.streams.max_event_bytes
        self._inbox = Inbox(around.home, section.name)

    def receive(self, *, limit: int, wait_seconds: float) -> Sequence[Received]:
        """At most so many, and 64 MiB of them; each stays in the inbox until it is acknowledged.

        Raises:
            SourceError: the inbox cannot be read.
        """
        deadline = time.monotonic() + wait_seconds
        try:
            while not (waiting := self._inbox.waiting()) and time.monotonic() < deadline:
                time.sleep(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            found: list[Received] = []
            size_bytes = 0
            for delivery in waiting[:limit]:
                size_bytes += delivery.size_bytes
                if found and size_bytes > _MOST_BYTES:
                    break
                body = self._inbox.read(delivery)
                if body is None:
                    continue
                event = decode(
                    body,
                    self._section,
                    origin=f"webhook:{self._section.name}/{delivery.id}",
                    received_at=datetime.fromtimestamp(delivery.received_at, UTC),
                    max_event_bytes=self._max_event_bytes,
                )
                found.append(Received((event,), delivery.id))
        except OSError as error:
            raise self._failed("read", error) from error
        return found

    def acknowledge(self, received: Sequence[Received]) -> None:
        """Remove them from the inbox, and remember for a while that they were there.

        Raises:
            SourceError: the inbox cannot be written.
        """
        if not received:
            return
        names = [str(message.receipt) for message in received]
        try:
            self._inbox.put_away(names, remember_seconds=self._section.remember_seconds)
        except OSError as error:
            raise self._failed("written", error) from error

    def lag(self) -> Lag:
        """What waits in the inbox.

        Raises:
            SourceError: the inbox cannot be read.
        """
        try:
            waiting = self._inbox.waiting()
        except OSError as error:
            raise self._failed("read", error) from error
        oldest = max(0.0, time.time() - waiting[0].received_at) if waiting else None
        return Lag(len(waiting), oldest)

    def close(self) -> None:
        """Nothing is held."""

    def _failed(self, what: str, error: OSError) -> SourceError:
        return SourceError(
            f"source {self._section.name!r}: its inbox cannot be {what}: {error}; free space on that disk and let this "
            "process read and write LOCKSTEP_HOME. No delivery is lost"
        )


def _check(section: WebhookSource, around: Surroundings) -> Iterator[Check]:
    try:
        keys = secrets(section)
    except ConfigError as error:
        yield Check("secret", False, str(error))
    else:
        short = min(map(len, keys)) < _SHORTEST_SECRET
        text = f"shorter than {_SHORTEST_SECRET} bytes: use a random one, `openssl rand -hex 32`" if short else "set"
        yield Check("secret", not short, f"the secret is {text}")
    try:
        lag = InboxStream(section, around).lag()
    except SourceError as error:
        yield Check("inbox", False, str(error))
        return
    since = "" if lag.oldest_seconds is None else f", the oldest for {lag.oldest_seconds:.0f} s"
    yield Check("inbox", True, f"{lag.messages} deliveries wait{since}; calls are taken in by `lockstep receive`")
