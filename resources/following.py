"""Streams that stay open between the ticks of the sensors: one thread a source, for as long as somebody asks.

A tick renews the wish to follow its sources and collects what they told; one that hangs or fails delays no other,
because no tick ever waits for a certain source. Nothing here decides when an update runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from pipelines.errors import LockstepError, SourceError
from pipelines.project import Project
from pipelines.sources.base import Lag, Stream
from pipelines.sources.registry import open_stream
from pipelines.sources.section import SourceSection
from pipelines.update.looking import progress
from pipelines.update.looking.follow import PumpReport, pump

_LEASE_SECONDS = 60.0  # nobody asked for that long: the sensor was switched off
_PUMP_SECONDS = 2.0  # how long one receive waits, and so how long an end takes
_DEFECT_SECONDS = 60.0  # before another attempt after an error that no waiting cures, such as a missing secret
_RUN_ID = "stream"
_log = logging.getLogger("lockstep.following")


_UNKNOWN = Lag(None)


@dataclass(frozen=True, slots=True)
class Told:
    """What following one source came to since somebody asked last. `error`: why it is not followed right now."""

    source: str
    streams: bool = True  # False: nothing announces its changes, and only listings tell
    new: int = 0  # events that were made durable
    found: int = 0  # changes that an update will apply
    duplicates: int = 0
    rejected: int = 0
    lag: Lag = _UNKNOWN
    error: str | None = None
    retry_at: datetime | None = None
    turned: bool = False  # it began to fail, failed in another way, or ceased to

    @property
    def news(self) -> bool:
        """Whether a tick has something to tell."""
        return self.turned or self.new > 0 or self.found > 0

    def plus(self, report: PumpReport) -> Told:
        """With one more pump that went well."""
        return replace(
            self,
            new=self.new + report.new,
            found=self.found + report.found,
            duplicates=self.duplicates + report.duplicates,
            rejected=self.rejected + report.rejected,
            lag=report.lag,
            error=None,
            retry_at=None,
            turned=self.turned or self.error is not None,
        )


class Follower:
    """Pumps one source's stream into `change_events`, in a thread of its own, until its lease ends."""

    def __init__(self, project: Project, section: SourceSection, changed: threading.Condition) -> None:
        self.section = section
        self._project = project
        self._changed = changed
        self._told = Told(section.name)
        self._until = time.monotonic() + _LEASE_SECONDS
        self._ended = threading.Event()
        self._began_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"follow {section.name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still follows, or tries to."""
        return self._thread.is_alive() and not self._ended.is_set()

    @property
    def news(self) -> bool:
        """Whether there is something to tell."""
        return self._told.news

    def renew(self) -> None:
        """Somebody wants it to go on."""
        self._until = time.monotonic() + _LEASE_SECONDS

    def stop(self) -> None:
        """Let it end as soon as its stream answers."""
        self._ended.set()

    def take(self) -> Told:
        """What was told since the last call. Call with the condition held."""
        told = self._told
        self._told = replace(told, new=0, found=0, duplicates=0, rejected=0, turned=False)
        silent = time.monotonic() - self._began_at
        if told.error is None and silent > self.section.stall_seconds:
            told = replace(told, error=f"its stream has given no sign for {silent:.0f} seconds")
        return told

    def _run(self) -> None:
        stream: Stream | None = None
        try:
            while self._wanted():
                self._began_at = time.monotonic()
                try:
                    stream = stream or self._open()
                    if stream is None:
                        self._idle(_LEASE_SECONDS)
                        continue
                    self._note(pump(self._project, self.section, stream, wait_seconds=_PUMP_SECONDS, run_id=_RUN_ID))
                except LockstepError as error:
                    _close(stream)
                    stream = None
                    self._rest(str(error), error)
                except Exception as error:  # noqa: BLE001 - the edge of a thread; the next tick tells it
                    _log.exception(f"following source {self.section.name!r}")
                    _close(stream)
                    stream = None
                    self._rest(f"unexpected: {type(error).__name__}: {error}", error)
        finally:
            _close(stream)
            self._ended.set()

    def _open(self) -> Stream | None:
        try:
            stream = open_stream(self.section, self._project.surroundings())
        except SourceError as error:
            progress.stream_failed(self._project.home, self.section.name, error)
            raise
        self._told = replace(self._told, streams=stream is not None)
        return stream

    def _wanted(self) -> bool:
        return not self._ended.is_set() and time.monotonic() < self._until

    def _note(self, report: PumpReport) -> None:
        with self._changed:
            self._told = self._told.plus(report)
            if self._told.news:
                self._changed.notify_all()

    def _rest(self, message: str, error: Exception) -> None:
        """Tell the error, and leave the source alone until it may be asked again."""
        state = progress.read(self._project.home, self.section.name)
        times = [at for at in (state.retry_at, state.stream_retry_at) if at is not None]
        known = max(times) if times and isinstance(error, SourceError) else None
        seconds = _DEFECT_SECONDS if known is None else (known - datetime.now(UTC)).total_seconds()
        with self._changed:
            turned = self._told.turned or self._told.error != message
            self._told = replace(self._told, error=message, retry_at=known, turned=turned)
            self._changed.notify_all()
        self._idle(seconds)

    def _idle(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._wanted() and (left := until - time.monotonic()) > 0:
            self._began_at = time.monotonic()
            self._ended.wait(min(1.0, left))


class Followers:
    """The followers of this process, by data folder and source."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._followers: dict[tuple[Path, str], Follower] = {}

    def follow(self, project: Project, sections: Sequence[SourceSection], *, wait_seconds: float) -> list[Told]:
        """Go on following these sources, and wait until one of them has something to tell.

        Returns:
            What each told since the last call; after `wait_seconds` also when that is nothing.
        """
        until = time.monotonic() + wait_seconds
        with self._changed:
            mine = [self._follower(project, section) for section in sections]
            self._changed.wait_for(lambda: any(one.news for one in mine), timeout=wait_seconds)
            while not mine and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            for one in mine:
                one.renew()
            return [one.take() for one in mine]

    def stop(self) -> None:
        """End all of them."""
        with self._changed:
            for follower in self._followers.values():
                follower.stop()
            self._followers.clear()

    def _follower(self, project: Project, section: SourceSection) -> Follower:
        key = (project.home.root, section.name)
        known = self._followers.get(key)
        if known is not None and known.alive and known.section == section:
            known.renew()
            return known
        if known is not None:
            known.stop()
        self._followers[key] = Follower(project, section, self._changed)
        return self._followers[key]


def _close(stream: Stream | None) -> None:
    if stream is None:
        return
    try:
        stream.close()
    except SourceError as error:
        _log.warning(f"closing a stream: {error}")


@lru_cache(maxsize=1)
def followers() -> Followers:
    """Those of this process."""
    return Followers()
