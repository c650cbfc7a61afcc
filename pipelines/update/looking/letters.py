"""Trying dead letters again, or laying them aside. What a letter is, and when it is due, is in `lake.dead_letters`.

A replay only announces that a document should be looked at again: the next update does it. So it needs no writer lock,
may be asked for at any time, and asked twice it is done once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from pipelines.errors import ConfigError, LockstepError, WriterBusy
from pipelines.lake import dead_letters
from pipelines.lake.events import TABLE as EVENTS
from pipelines.lake.events import Event
from pipelines.project import Project
from pipelines.sources.section import SourceSection
from pipelines.update.audit import write_audit
from pipelines.update.looking import progress

ORIGIN = "replay:"
_PATIENCE_SECONDS = 30.0
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What one call asked for.

    `announced` documents are looked at by the next update, `waiting` ones were asked for already, `understood` messages
    are events now, `refused` ones still cannot be understood or belong to no configured source.
    """

    letters: int
    announced: int
    waiting: int
    understood: int
    refused: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class DiscardReport:
    """Letters laid aside; `unchanged` were not open."""

    discarded: int
    unchanged: int
    seconds: float


def select(
    project: Project,
    *,
    letter_ids: Sequence[str] = (),
    error_class: str | None = None,
    source: str | None = None,
    stage: str | None = None,
    everything: bool = False,
) -> list[Row]:
    """Letters by id (or a unique beginning of it), whatever their status; else the open ones that all conditions fit.

    Raises:
        ConfigError: neither an id nor a condition is given, and not `everything`; or ids and conditions together.
        LockstepError: an id is unknown or fits several letters.
    """
    wanted = {"error_class": error_class, "source": source, "stage": stage}
    conditions = {name: value for name, value in wanted.items() if value}
    if bool(letter_ids) + bool(conditions) + everything != 1:
        raise ConfigError(
            "which dead letters? Give their ids, or a class, source or stage, or ask for all of them: one of the three"
        )
    if letter_ids:
        found = {row["letter_id"]: row for row in (dead_letters.find(project.lake, one) for one in letter_ids)}
        return list(found.values())
    rows: list[Row] = dead_letters.open_letters(project.lake).sort_by("first_seen_at").to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in conditions.items())]


def replay(project: Project, letters: Iterable[Row], *, run_id: str) -> ReplayReport:
    """Let the next update try these letters again, with their documents' bytes read anew.

    A message that was not understood is decoded again at once, with today's code.
    """
    started = time.perf_counter()
    letters = list(letters)
    asked = _Asked(project)
    sections = {section.name: section for section in project.config.sources}
    events: list[Event] = []
    refused: list[str] = []
    announced = waiting = understood = 0
    for letter in letters:
        section = sections.get(letter["source"])
        if section is None:
            refused.append(f"{letter['letter_id']}: no source is named {letter['source']!r} in the configuration")
        elif asked.waits(letter):
            waiting += 1
        elif letter["stage"] == "event":
            answer = _decoded(project, letter, section)
            if isinstance(answer, str):
                refused.append(f"{letter['letter_id']}: {answer}")
            else:
                events += [answer, _healed(letter)]
                understood += 1
        else:
            events.append(_hint(letter))
            announced += 1
    project.events.append(events, run_id=run_id)
    return ReplayReport(len(letters), announced, waiting, understood, tuple(refused), time.perf_counter() - started)


def due_retries(project: Project, now: datetime) -> list[Row]:
    """Open letters whose failure may pass and whose time has come, without those that wait for an update already."""
    letters = dead_letters.open_letters(project.lake)
    if letters["retry_at"].null_count == len(letters):
        return []
    due = letters.filter(pc.fill_null(pc.less_equal(letters["retry_at"], pa.scalar(now)), False))
    if not due.num_rows:
        return []
    asked = _Asked(project)
    configured = {section.name for section in project.config.sources}
    return [
        row
        for row in due.sort_by("retry_at").to_pylist()
        if row["source"] in configured and not asked.waits(row) and not asked.lately(row, now)
    ]


def replay_due(project: Project, now: datetime, *, run_id: str = "retry") -> ReplayReport:
    """Replay what is due. Called often: with nothing due it writes nothing."""
    return replay(project, due_retries(project, now), run_id=run_id)


def discard(project: Project, letters: Iterable[Row], *, reason: str, run_id: str) -> DiscardReport:
    """Lay letters aside: they count no more and are not tried again, until content or error is another.

    The audit log keeps who did it and why.

    Raises:
        ConfigError: no reason is given.
        WriterBusy: an update held the writer lock all the time.
    """
    started = time.perf_counter()
    if not reason.strip():
        raise ConfigError("discarding dead letters: say why (--reason), so that others know")
    wanted = {letter["letter_id"] for letter in letters}

    @retry(
        retry=retry_if_exception_type(WriterBusy),
        stop=stop_after_delay(_PATIENCE_SECONDS),
        wait=wait_fixed(0.1),
        reraise=True,
    )
    def under_lock() -> int:
        with project.writer(run_id, "discard dead letters"):
            rows = [row for row in dead_letters.open_letters(project.lake).to_pylist() if row["letter_id"] in wanted]
            if rows:
                detail = {"letters": sorted(row["letter_id"] for row in rows), "reason": reason.strip()}
                target = f"index:{project.alias}"
                write_audit(project, action="discard_dead_letters", target=target, detail=detail, run_id=run_id)
                done = [{**row, "status": "discarded", "retry_at": None, "run_id": run_id} for row in rows]
                dead_letters.write(project.lake, done, run_id=run_id)
            return len(rows)

    discarded = under_lock()
    return DiscardReport(discarded, len(wanted) - discarded, time.perf_counter() - started)


def forget_failed_parses(project: Project, content_hashes: Iterable[str], run_id: str) -> int:
    """Remove the results of failed parses of these contents, so that they are parsed again; returns how many.

    The caller holds the writer lock.
    """
    wanted = pa.array(sorted(set(content_hashes)), pa.string())
    failed = pc.field("content_hash").isin(wanted) & (pc.field("status") == "failed")
    found = project.lake.read("elements", ["content_hash"], where=failed).num_rows if len(wanted) else 0
    if found:
        project.lake.rewrite("elements", keep=lambda batch: _others(batch, wanted), run_id=run_id)
    return found


class _Asked:
    """Replays that were asked for before, by letter."""

    def __init__(self, project: Project) -> None:
        rows = project.lake.read(
            EVENTS, ["sequence", "type", "origin", "received_at"], where=pc.starts_with(pc.field("origin"), ORIGIN)
        )
        self._newest: dict[str, Row] = {}
        for row in rows.sort_by("sequence").to_pylist():
            self._newest[row["origin"].removeprefix(ORIGIN).partition("@")[0]] = row
        self._home = project.home

    def waits(self, letter: Row) -> bool:
        """Whether no update has got to the last one yet."""
        row = self._newest.get(letter["letter_id"])
        if row is None:
            return False
        state = progress.read(self._home, letter["source"])
        through = state.observed_sequence if row["type"] == "changed" else state.applied_sequence
        return int(row["sequence"]) > through

    def lately(self, letter: Row, now: datetime) -> bool:
        """Whether the last one was so lately that the letter, which it left as it was, should rest first."""
        row = self._newest.get(letter["letter_id"])
        if row is None or row["received_at"] < letter["last_seen_at"]:
            return False
        wait = timedelta(seconds=dead_letters.backoff_seconds(letter["attempts"] + 1))
        return bool(now - row["received_at"] < wait)


def _hint(letter: Row) -> Event:
    return Event(letter["source"], letter["uri"], "changed", _origin(letter))


def _healed(letter: Row) -> Event:
    """Tells the next update that the message behind a letter is understood."""
    return Event(letter["source"], letter["uri"], "recovered", _origin(letter), attributes={"stage": "event"})


def _origin(letter: Row) -> str:
    return f"{ORIGIN}{letter['letter_id']}@{datetime.now(UTC).isoformat()}"


def _decoded(project: Project, letter: Row, section: SourceSection) -> Event | str:
    """The event that a message says after all, or why it still says none."""
    from pipelines.sources.announced.announcements import AnnouncedSection, decode

    if not isinstance(section, AnnouncedSection):
        return f"source {section.name!r} is of kind {section.kind!r} now, which takes no messages; discard the letter"
    if not letter["content_hash"]:
        return "the message was not kept; correct the producer and send it again, then discard the letter"
    try:
        payload = project.blobs.read(letter["content_hash"])
    except LockstepError as error:
        return str(error)
    limit = project.config.streams.max_event_bytes
    event = decode(payload, section, origin=letter["uri"], max_event_bytes=limit)
    return str(event.error) if event.type == "rejected" else event


def _others(batch: pa.RecordBatch, wanted: pa.Array) -> pa.Array:
    failed = pc.and_(pc.is_in(batch["content_hash"], value_set=wanted), pc.equal(batch["status"], "failed"))
    return pc.invert(failed)
