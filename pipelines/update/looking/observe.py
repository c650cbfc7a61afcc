"""Looking at one source and making durable what was found, without the writer lock: an update applies it later.

One look at a time at each source, so that the order of what was found is the order in which it was so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SourceError
from pipelines.governance.access import AclRegistry
from pipelines.lake import dead_letters
from pipelines.lake.blobs import BlobStore
from pipelines.lake.dead_letters import Failure
from pipelines.lake.events import ANNOUNCED, Event
from pipelines.lake.lock import waiting_lock
from pipelines.project import Project
from pipelines.sources.addresses.uris import below
from pipelines.sources.base import Hint, Polling, Progress, Source
from pipelines.sources.registry import open_source
from pipelines.update.looking import progress as following
from pipelines.update.looking.known import known_documents
from pipelines.update.looking.look import Look

Mode = Literal["listing", "poll", "hints"]

_PORTION = 5_000  # events a commit: what a kill can cost
_LISTINGS_APART = 12  # a source that can be polled is listed in full every so many polls
_UNHEARD = timedelta(seconds=5)  # an announcement that nobody has looked at for that long needs a look of its own


@dataclass(frozen=True, slots=True)
class ObserveReport:
    """One look at a source. `found`: events that are now in the log for an update to apply."""

    source: str
    mode: Mode
    listed: int
    unchanged: int
    found: int
    fetched: int
    fetched_bytes: int
    complete: bool
    problems: tuple[Failure, ...]
    seconds: float


def observe(
    project: Project,
    source: str,
    *,
    run_id: str,
    mode: Mode = "listing",
    thorough: bool = False,
    progress: Progress | None = None,
) -> ObserveReport:
    """Look at a source and append what differs from what is known of it to `change_events`.

    Args:
        project: whose source it is; looks may run in threads.
        source: its name.
        run_id: recorded with what is appended.
        mode: "listing": everything that is there, and with it all that was announced. "hints": only what was announced
            since the last look. "poll": what the source itself says changed since its cursor; a listing where it
            cannot say that, or has not been listed for long.
        thorough: read every document and compare its bytes.
        progress: called with (documents listed or fetched, how many there will be).

    Raises:
        ConfigError: there is no such source, or its secret is not set.
        SourceError: it could not be read; it is left alone for a while (see `progress.failed`); nothing is
            inferred.
    """
    started = time.perf_counter()
    section = project.config.source(source)
    with waiting_lock(project.home.progress / f"{source}.look"):
        try:
            report = _Observation(project, source, run_id, thorough=thorough, progress=progress).make(mode, started)
        except SourceError as error:
            following.failed(project.home, section.name, error)
            raise
    return report


def due(project: Project, now: datetime) -> list[tuple[str, Mode]]:
    """Monitored sources that need a look, and which: by their cadence, or because an announcement is not looked at."""
    log = project.events
    found: list[tuple[str, Mode]] = []
    for section in project.config.sources:
        if not section.monitor:
            continue
        state = following.read(project.home, section.name)
        if state.resting(now):
            continue
        last = max((at for at in (state.listed_at, state.contacted_at) if at is not None), default=None)
        if state.listed_at is None or last is None or now - last >= timedelta(seconds=section.every_seconds):
            found.append((section.name, "poll" if state.listed_at is not None else "listing"))
            continue
        waiting = log.after(section.name, state.observed_sequence, ANNOUNCED)
        if len(waiting) and now - pc.min(waiting["received_at"]).as_py() > _UNHEARD:
            found.append((section.name, "hints"))
    return found


class _Observation:
    """One look with what it needs; looks that run side by side share the tables, which are opened once."""

    def __init__(
        self, project: Project, source: str, run_id: str, *, thorough: bool, progress: Progress | None
    ) -> None:
        self._home, self._run_id, self._thorough, self._progress = project.home, run_id, thorough, progress
        self._section = project.config.source(source)
        self._lake, self._log = project.lake, project.events
        self._blobs = BlobStore(project.home.blobs)
        self._labels = project.labels(self._section, AclRegistry(self._lake.read("acl_sets")))
        self._state = following.read(project.home, source)
        self._source = open_source(self._section, project.surroundings())

    def make(self, mode: Mode, started: float) -> ObserveReport:
        now = datetime.now(UTC)
        announced = self._log.after(self._section.name, self._state.observed_sequence, ANNOUNCED)
        through = max(self._state.observed_sequence, pc.max(announced["sequence"]).as_py() or 0)
        hints = [Hint(row["uri"], row["subtree"]) for row in announced.select(["uri", "subtree"]).to_pylist()]
        cursor = self._state.cursor
        if mode == "poll":
            mode, polled, cursor = self._poll(now)
            hints += polled
        if Hint("", subtree=True) in hints:
            mode = "listing"
        if mode != "listing" and not hints:
            following.went_well(self._home, self._section.name, cursor=cursor)
            return ObserveReport(self._section.name, mode, 0, 0, 0, 0, 0, True, (), time.perf_counter() - started)
        look = Look(
            section=self._section,
            source=self._source,
            labels=self._labels,
            keep=self._blobs.put,
            hints=None if mode == "listing" else list(dict.fromkeys(hints)),
            asked=frozenset(_replayed(announced)),
            detected=_first_heard(announced),
            thorough=self._thorough,
            progress=self._progress,
        )
        listing = look.listing()
        known = known_documents(self._lake, self._log, self._state, self._labels, look.hints)
        found = self._append(look.events(known, listing)) + self._append(self._news_of_failures(look))
        listed = {"listed_at": now} if mode == "listing" and look.complete else {}
        following.went_well(self._home, self._section.name, observed_sequence=through, cursor=cursor, **listed)
        return ObserveReport(
            source=self._section.name,
            mode=mode,
            listed=look.listed,
            unchanged=look.unchanged,
            found=found,
            fetched=look.fetched,
            fetched_bytes=look.fetched_bytes,
            complete=look.complete,
            problems=tuple(look.failures),
            seconds=time.perf_counter() - started,
        )

    def _poll(self, now: datetime) -> tuple[Mode, list[Hint], str | None]:
        source: Source = self._source
        apart = timedelta(seconds=_LISTINGS_APART * self._section.every_seconds)
        listed_at = self._state.listed_at
        if not isinstance(source, Polling) or listed_at is None or now - listed_at >= apart:
            return "listing", [], self._state.cursor
        polled = source.poll(self._state.cursor)
        return "poll", list(polled.hints), polled.cursor

    def _append(self, events: Iterator[Event]) -> int:
        total = 0
        portion: list[Event] = []
        for event in events:
            portion.append(event)
            if len(portion) >= _PORTION:
                total += self._log.append(portion, run_id=self._run_id).new
                portion = []
        if portion:
            total += self._log.append(portion, run_id=self._run_id).new
        return total

    def _news_of_failures(self, look: Look) -> Iterator[Event]:
        """What failed now and is not on record, and what is on record and did not fail now."""
        name = self._section.name
        letters = dead_letters.open_letters(self._lake)
        letters = letters.filter(pc.equal(letters["source"], name)).select(["uri", "stage", "error"])
        on_record = {(row["uri"], row["stage"]): row["error"] for row in letters.to_pylist()}
        for row in self._log.after(name, self._state.applied_sequence, ("failed", "recovered")).to_pylist():
            stage = json.loads(row["attributes"]).get("stage", "")
            if row["type"] == "failed":
                on_record[row["uri"], stage] = row["error"]
            else:
                on_record.pop((row["uri"], stage), None)
        now = {(failure.uri, failure.stage) for failure in look.failures}
        for failure in look.failures:
            known = on_record.get((failure.uri, failure.stage))
            if known != failure.error or failure.uri in look.asked:
                yield _failed(failure, look)
        folders = {failure.uri for failure in look.failures if failure.stage == "list"}
        for uri, stage in sorted(on_record.keys() - now):
            if stage in ("list", "fetch") and _covered(uri, look) and not _unread(uri, folders):
                yield Event(name, uri, "recovered", f"look:{self._run_id}", attributes={"stage": stage})


def _covered(uri: str, look: Look) -> bool:
    return look.hints is None or any(uri == h.uri or (h.subtree and uri.startswith(h.uri + "/")) for h in look.hints)


def _unread(uri: str, folders: set[str]) -> bool:
    return "" in folders or below(uri, folders)


def _failed(failure: Failure, look: Look) -> Event:
    return Event(
        failure.source,
        failure.uri,
        "failed",
        f"look:{look.started_at.isoformat()}:{failure.stage}",
        attributes={"stage": failure.stage, "transient": failure.transient},
        error_class=failure.error_class,
        error=failure.error,
    )


def _replayed(announced: pa.Table) -> list[str]:
    replays = announced.filter(pc.starts_with(announced["origin"], pattern="replay:"))
    uris: list[str] = replays["uri"].to_pylist()
    return uris


def _first_heard(announced: pa.Table) -> dict[str, datetime]:
    first = announced.group_by("uri").aggregate([("received_at", "min")])
    return dict(zip(first["uri"].to_pylist(), first["received_at_min"].to_pylist(), strict=True))
