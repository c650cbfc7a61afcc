"""What maintenance must keep: everything that a retained snapshot, a slot, the manifest or an open question refers to.

Nothing is removed here; see `maintenance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import LakeError
from pipelines.index.slots import every_slot
from pipelines.lake import dead_letters, manifest, snapshots, term_statistics
from pipelines.lake.events import ANNOUNCED
from pipelines.lake.events import TABLE as EVENTS
from pipelines.lake.lock import waiting_lock
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.looking import progress
from pipelines.update.snapshot.candidate import lost_manifest

_VERSIONED = ("upsert", "delete")
_EVENT_COLUMNS = ["sequence", "source", "uri", "type", "version", "event_id", "received_at"]


@dataclass(frozen=True)
class Retained:
    """What is kept, decided once a run.

    Attributes:
        snapshots: that can be brought back afterwards: the newest ones that were live, the live one, and what slots
            hold.
        versions: of the manifest, that can still be read afterwards.
        feed_since: the manifest's change feed stays whole after this version; None while there is none.
    """

    project: Project
    snapshots: tuple[Snapshot, ...]
    versions: tuple[int, ...]
    feed_since: int | None

    @property
    def snapshot_ids(self) -> pa.Array:
        """Of the retained snapshots."""
        return pa.array([s.snapshot_id for s in self.snapshots], pa.string())

    @property
    def model_fps(self) -> pa.Array:
        """Models whose vectors are kept: those of the retained snapshots, and today's."""
        return pa.array(sorted({*(s.model_fp for s in self.snapshots), self.project.recipe.model_fp}), pa.string())

    @cached_property
    def contents(self) -> pa.Table:
        """Content hash and media type of every document that a kept version of the manifest serves, each pair once."""
        columns = ["content_hash", "media_type"]
        found = self._current.select(columns)
        for version in self.versions:  # one after the other: most versions serve the same contents
            served = manifest.active_documents(self.project.lake, version, columns=columns)
            found = pa.concat_tables([found, served]).group_by(columns).aggregate([])
        return found.group_by(columns).aggregate([])

    @cached_property
    def whole_contents(self) -> pa.Array:
        """Contents of which everything is kept, by whatever parser or recipe it was made.

        Those of snapshots of an earlier recipe (today's configuration cannot name its keys), of documents that wait for
        a parser that reads them, and of an update that was interrupted.
        """
        today = (self.project.recipe.fingerprint, self.project.recipe.model_fp)
        earlier = {s.manifest_version for s in self.snapshots if (s.recipe_fp, s.model_fp) != today}
        hashes = [self._current["quarantined_hash"], self._staged]
        for version in sorted(earlier):
            served = manifest.active_documents(self.project.lake, version, columns=["content_hash"])
            hashes.append(_distinct([served["content_hash"]]))
        return _distinct(hashes)

    @cached_property
    def keys(self) -> pa.Table:
        """Content, parser and recipe fingerprints of everything kept that today's configuration can name."""
        return self.project.recipe.keyed(self.contents)

    @contextmanager
    def named_blobs(self) -> Iterator[set[str]]:
        """The contents that anything names; while this is entered, no event can name another.

        Deleted documents keep nothing, but for the versions of the manifest that still serve them.
        """
        letters = dead_letters.open_letters(self.project.lake)
        hashes = [self.contents["content_hash"], self.whole_contents, letters["content_hash"]]
        with waiting_lock(self.project.home.events_lock):
            events = self.project.lake.read(EVENTS, [*_EVENT_COLUMNS, "content_hash"])
            needed = pc.invert(_overtaken(self.project, events))
            yield set(_distinct([*hashes, events["content_hash"].filter(needed)]).to_pylist())

    @cached_property
    def _current(self) -> pa.Table:
        where = pc.field("status") != manifest.DELETED
        return self.project.lake.read(manifest.TABLE, ["content_hash", "media_type", "quarantined_hash"], where=where)

    @cached_property
    def _staged(self) -> pa.Array:
        """Contents of an update that was interrupted, and may go on where it stopped."""
        version = self.project.lake.version(manifest.TABLE)
        try:
            found = staging.read_changes(self.project.home.staging, manifest_version=version)
        except LakeError:
            return pa.array([], pa.string())
        return found["content_hash"].combine_chunks()


def retained(project: Project) -> Retained:
    """What must be kept as of now.

    Raises:
        IndexUnavailable: the slots cannot be asked what they hold.
    """
    lake, index = project.lake, project.index()
    history = snapshots.history(lake, project.alias)
    newest = lake.version(manifest.TABLE)
    states = [index.read_state(name) for name in every_slot(project.alias) if index.exists(name)]
    held = {state["snapshot_id"] for state in states if state}
    whole = term_statistics.stored(lake)  # earlier runs pruned the rest
    seen = [s for s in history if s.status in ("live", "retired") and s.snapshot_id in whole]
    seen = seen[-project.config.retention.snapshots :]
    live = snapshots.live(history)
    wanted = {s.snapshot_id for s in seen} | held | ({live.snapshot_id} if live else set())
    kept = tuple(s for s in history if s.snapshot_id in wanted and not lost_manifest(project, s))
    marks = [int(state["manifest_version"]) for state in states if state]
    marks += [live.manifest_version] if live else []
    marks = [mark for mark in marks if 0 <= mark <= newest]
    versions = sorted({*(s.manifest_version for s in kept), *marks} - {-1})
    return Retained(project, kept, tuple(versions), min(marks, default=None))


def spent_events(project: Project, now: datetime) -> pa.Array:
    """Sequences of events that say nothing any more: applied, older than `retention.history_days`, and overtaken.

    Of a document's own versions the winning one stays, a deletion too; so does whatever is not applied yet, and the
    newest event of all, from which the next sequence is counted. The caller holds the lock of the events.
    """
    events = project.lake.read(EVENTS, _EVENT_COLUMNS)
    before = now - timedelta(days=project.config.retention.history_days)
    old = pc.less(events["received_at"], pa.scalar(before))
    spent = pc.and_(_overtaken(project, events), pc.and_(old, pc.less(events["sequence"], pc.max(events["sequence"]))))
    return events["sequence"].filter(spent).combine_chunks()


def _overtaken(project: Project, events: pa.Table) -> pa.ChunkedArray:
    """Which events are applied and do not decide what a document is."""
    done = pc.is_in(events["sequence"], value_set=pa.array([], pa.int64()))  # none
    announced = pc.is_in(events["type"], value_set=pa.array(list(ANNOUNCED)))
    for section in project.config.sources:
        state = progress.read(project.home, section.name)
        through = pc.if_else(announced, state.observed_sequence, state.applied_sequence)
        own = pc.equal(events["source"], section.name)
        done = pc.or_(done, pc.and_(own, pc.less_equal(events["sequence"], through)))
    return pc.and_(done, pc.invert(pc.is_in(events["sequence"], value_set=_winners(events))))


def _winners(events: pa.Table) -> pa.Array:
    """Of each document's upserts and deletes the one that counts; the rule is that of `EventLog.state`."""
    versioned = events.filter(pc.is_in(events["type"], value_set=pa.array(list(_VERSIONED))))
    order = [("version", "descending"), ("type", "ascending"), ("event_id", "descending")]
    first: dict[tuple[str, str], int] = {}
    for row in versioned.sort_by(order).select(["source", "uri", "sequence"]).to_pylist():
        first.setdefault((row["source"], row["uri"]), row["sequence"])
    return pa.array(sorted(first.values()), pa.int64())


def _distinct(columns: list[pa.Array | pa.ChunkedArray]) -> pa.Array:
    chunks = [chunk for column in columns for chunk in (getattr(column, "chunks", None) or [column])]
    chunks = [chunk for chunk in chunks if isinstance(chunk, pa.Array)]
    return pc.unique(pa.chunked_array(chunks, pa.string())).drop_null()
