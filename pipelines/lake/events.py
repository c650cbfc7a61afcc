"""The log of announced changes: durable before any cursor moves, and the truth of sources that only announce.

What a document is, by this log, is a function of the set of its events: the one with the highest version. So it does
not matter in which order they came, how often, or when. Applying them to the manifest belongs to `pipelines.update`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import LakeError
from pipelines.home import Home
from pipelines.identity import content_hash, fingerprint
from pipelines.lake import disk
from pipelines.lake.lock import waiting_lock
from pipelines.lake.schemas import CHANGE_EVENTS

if TYPE_CHECKING:
    from pipelines.lake.known_ids import KnownIds

TABLE = "change_events"
EventType = Literal["upsert", "delete", "changed", "rejected", "observed", "absent", "failed", "recovered"]

ANNOUNCED: tuple[EventType, ...] = ("upsert", "delete", "changed")
FOUND: tuple[EventType, ...] = ("observed", "absent", "failed", "recovered", "rejected")
"""What an update applies: the results of looks at a source, and messages that nobody understood."""

_VERSIONED = ("upsert", "delete")


@dataclass(frozen=True, slots=True)
class Event:
    """One announced change.

    `upsert` and `delete` say what a document is, with a `version` of its own; `changed` only hints that it should be
    looked at; `rejected` is a message that could not be understood, with its payload as `content`. The others are what
    a look at the source found: `observed` and `absent` documents, and what `failed` and has `recovered`; of these the
    latest counts.
    """

    source: str
    uri: str
    type: EventType
    origin: str  # where the message came from, such as kafka:TOPIC[PARTITION]@OFFSET
    subtree: bool = False
    version: int | None = None
    content: bytes | None = None  # stored in the blob folder when the event is appended
    stored: str | None = None  # content hash of bytes that are in the blob folder already
    size_bytes: int | None = None
    etag: str | None = None
    pointer: str | None = None
    media_type: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)  # title, author, created, version_label, ...
    readers: tuple[str, ...] | None = None
    occurred_at: datetime | None = None
    modified_at: datetime | None = None
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    error_class: str | None = None
    error: str | None = None

    def identity(self, payload: str | None) -> str:
        """What is announced, not how it was delivered: a document's event that comes again is the same one.

        Any other event is itself each time.
        """
        parts: dict[str, object] = {"source": self.source, "uri": self.uri, "type": self.type}
        if self.type not in _VERSIONED:
            parts |= {"origin": self.origin, "subtree": self.subtree, "payload": payload, "error": self.error}
        else:
            parts |= {
                "version": self.version,
                "payload": payload,
                "pointer": self.pointer,
                "media_type": self.media_type,
                "attributes": json.dumps(dict(self.attributes), sort_keys=True, default=str),
                "readers": self.readers,
                "modified_at": self.modified_at,
            }
        return fingerprint("event", parts)


@dataclass(frozen=True, slots=True)
class Appended:
    """What one append did. `last_sequence` is that of the newest event in the log."""

    new: int
    duplicates: int
    last_sequence: int


class EventLog:
    """The table `change_events` and the bytes that its rows name. Appended by anybody, at any time."""

    def __init__(self, home: Home) -> None:
        # Here, because every parse worker imports the configuration and with it this module.
        from pipelines.lake.blobs import BlobStore
        from pipelines.lake.tables import Lake

        self._home = home
        self._lake = Lake(home.lake)
        self._blobs = BlobStore(home.blobs)

    def append(self, events: Sequence[Event], *, run_id: str = "stream") -> Appended:
        """Make events durable, in one commit; those that the log has already add nothing.

        Raises:
            LakeError: they could not be written; none of them is in the log.
        """
        if not events:
            return Appended(0, 0, self.last_sequence())
        payloads = [event.stored if event.content is None else content_hash(event.content) for event in events]
        rows = {event.identity(payload): (event, payload) for event, payload in zip(events, payloads, strict=True)}
        self._home.claim()
        with waiting_lock(self._home.events_lock):
            newest = self.last_sequence()
            last = max(newest, int(time.time() * 1_000_000) - 1)
            fresh = self._unknown(rows)
            for event_id in fresh:
                content = rows[event_id][0].content
                if content is not None:
                    self._blobs.put(content)
            table = pa.Table.from_pylist(
                [_row(event_id, last + n, *rows[event_id]) for n, event_id in enumerate(fresh, start=1)],
                schema=CHANGE_EVENTS,
            )
            self._lake.append(TABLE, table, run_id=run_id)
        return Appended(len(fresh), len(events) - len(fresh), last + len(fresh) if fresh else newest)

    def sync(self) -> None:
        """What was appended survives a power cut from now on; until then it only survives this process.

        Raises:
            LakeError: it could not be written.
        """
        try:
            disk.sync(self._home.root)
        except OSError as error:
            raise LakeError(
                f"writing change_events under {self._home.lake} to the disk failed: {error}; free space, or look at "
                "the disk, and start this again: nothing was acknowledged"
            ) from error

    def _unknown(self, rows: Mapping[str, tuple[Event, str | None]]) -> list[str]:
        """The event ids that the log does not have yet."""
        if all(event.type in FOUND and event.type != "rejected" for event, _ in rows.values()):
            return list(rows)  # each is itself: there is nothing to look for
        return _known(str(self._home.lake)).without(self._lake, list(rows))

    def last_sequence(self) -> int:
        """Of the newest event, 0 for none."""
        return self._lake.greatest(TABLE, "sequence") or 0

    def after(
        self,
        source: str,
        sequence: int,
        types: Sequence[EventType],
        *,
        until: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Events of a source of those types that are newer than a sequence, oldest first."""
        where = (pc.field("source") == source) & pc.field("type").isin(list(types))
        found = self._lake.after(TABLE, columns, by="sequence", value=sequence, until=until, where=where)
        return found.sort_by("sequence")

    def numbered(self, sequences: pa.Array) -> pa.Table:
        """The events of these sequences, oldest first."""
        if not len(sequences):
            return CHANGE_EVENTS.empty_table()
        bounds = pc.min_max(sequences)
        where = pc.field("sequence").isin(sequences)
        first, last = bounds["min"].as_py(), bounds["max"].as_py()
        found = self._lake.after(TABLE, by="sequence", value=first, until=last, inclusive=True, where=where)
        return found.sort_by("sequence")

    def newer(self, marks: Mapping[str, int], types: Sequence[EventType]) -> pa.Table:
        """Source, uri, readers and sequence of events that are newer than their source's mark, oldest first."""
        columns = ["source", "uri", "readers", "sequence"]
        if not marks:
            return self._lake.read(TABLE, columns, where=pc.scalar(False))
        own = ((pc.field("source") == source) & (pc.field("sequence") > mark) for source, mark in marks.items())
        where = reduce(or_, own) & pc.field("type").isin(list(types))
        found = self._lake.after(TABLE, columns, by="sequence", value=min(marks.values()), where=where)
        return found.sort_by("sequence")

    def state(self, source: str, *, until: int | None = None, uris: Iterable[str] | None = None) -> pa.Table:
        """What the events of a source say about each document: one row of `change_events` each, deleted ones included.

        Of a document's upserts and deletes the highest version wins; of two with one version a delete, then the
        higher event id: any rule would do that does not depend on the order in which they came.

        Args:
            source: its name.
            until: only events up to that sequence.
            uris: only these documents.
        """
        where = (pc.field("source") == source) & pc.field("type").isin(["upsert", "delete"])
        if until is not None:
            where &= pc.field("sequence") <= until
        if uris is not None:
            where &= pc.field("uri").isin(pa.array(list(uris), pa.string()))
        keys = self._lake.read(TABLE, ["uri", "version", "type", "event_id", "sequence"], where=where)
        order = [("uri", "ascending"), ("version", "descending"), ("type", "ascending"), ("event_id", "descending")]
        keys = keys.sort_by(order)  # "delete" comes before "upsert"
        names = keys["uri"].combine_chunks()
        first = np.ones(len(names), np.bool_)
        if len(names) > 1:
            first[1:] = pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)
        winners = keys["sequence"].filter(pa.array(first)).combine_chunks()
        return self._lake.read(TABLE, where=pc.field("sequence").isin(winners)).sort_by("uri")


@cache
def _known(lake: str) -> KnownIds:
    """The ids in the log of a lake, for as long as this process lives."""
    from pipelines.lake.known_ids import KnownIds

    del lake
    return KnownIds()


def as_table(events: Sequence[Event], *, after: int) -> pa.Table:
    """Events as rows of the log that come after a sequence; nothing is stored."""
    rows = []
    for number, event in enumerate(events, start=after + 1):
        payload = event.stored if event.content is None else content_hash(event.content)
        rows.append(_row(event.identity(payload), number, event, payload))
    return pa.Table.from_pylist(rows, schema=CHANGE_EVENTS)


def _row(event_id: str, sequence: int, event: Event, payload: str | None) -> dict[str, object]:
    return {
        "sequence": sequence,
        "event_id": event_id,
        "source": event.source,
        "uri": event.uri,
        "type": event.type,
        "subtree": event.subtree,
        "version": event.version,
        "content_hash": payload,
        "size_bytes": event.size_bytes,
        "etag": event.etag,
        "pointer": event.pointer,
        "media_type": event.media_type,
        "attributes": json.dumps(dict(event.attributes), ensure_ascii=False, sort_keys=True, default=str),
        "readers": event.readers,
        "occurred_at": event.occurred_at,
        "modified_at": event.modified_at,
        "received_at": event.received_at,
        "origin": event.origin,
        "error_class": event.error_class,
        "error": event.error,
    }
