"""What every source gives: a listing of what is there, problems by name, and the bytes of single documents.

The shapes live here; each kind of source has a module of its own. Unread is not empty: a source that could not be
read raises, and a part that could not be read is a problem that protects the documents below it from deletion.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, runtime_checkable

import pyarrow as pa

from pipelines.lake.events import Event
from pipelines.lake.schemas import TIMESTAMP

Progress = Callable[[int, int], None]
"""Called with (done, total); total is 0 while it is unknown."""

RECORD_MEDIA_TYPE = "application/vnd.lockstep.record+json"

ITEMS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("etag", pa.string()),  # equal etags mean equal content; null where the source has none
        pa.field("modified_at", TIMESTAMP),
        pa.field("readers", pa.list_(pa.string())),  # what the source itself reports; null: it reports nothing
        pa.field("metadata", pa.string()),  # JSON object, or null
    ]
)

_BATCH_ROWS = 16_384
_MAX_PROBLEMS = 1_000  # named one by one; a source with more needs a look at its configuration, not a list


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One document as a source lists it, without its bytes."""

    uri: str
    size_bytes: int | None
    etag: str | None = None
    modified_at: datetime | None = None
    readers: tuple[str, ...] | None = None
    metadata: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was found and could not be listed. The document at `uri` keeps its last good version.

    `subtree`: nothing is known about what lies below `uri` ("" is the whole source), so nothing there is deleted.
    """

    uri: str
    error_class: str
    message: str
    transient: bool = False
    subtree: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source holds now: a table of `ITEMS` (each uri once) and what could not be read.

    `reports_readers`: the source says itself who may read, so that for a document that is not listed this is unknown.
    `gone`: of a source that says which documents are gone, their uris: then no other is, listed or not.
    """

    items: pa.Table
    problems: tuple[Problem, ...] = ()
    reports_readers: bool = False
    gone: pa.ChunkedArray | None = None

    @property
    def complete(self) -> bool:
        """Whether every document of the source was seen, so that a missing one may be deleted."""
        return not any(problem.subtree for problem in self.problems)

    @classmethod
    def unread(cls, reason: str, *, reports_readers: bool = False) -> Listing:
        """The listing of a source that could not be read: changed access rules still apply, nothing else happens."""
        problem = Problem("", "SourceUnreadable", reason, transient=True, subtree=True)
        return cls(ITEMS.empty_table(), (problem,), reports_readers)


@dataclass(frozen=True, slots=True)
class Hint:
    """A word that a document may have changed: look at it again. `subtree`: and at everything below it."""

    uri: str
    subtree: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that `lockstep sources check` tried, such as "list" or "read", and how it went.

    `message` says what was found; of a check that failed, also what to do.
    """

    name: str
    ok: bool
    message: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes of one document and the state of the source when they were read.

    `modified_at` is None where the time stamp cannot be trusted to change with the next write; detection then looks
    at the document again. `media_type` is None where it has to be found out from the bytes.
    """

    uri: str
    content: bytes
    size_bytes: int
    etag: str | None = None
    modified_at: datetime | None = None
    media_type: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Last segment of the uri: what the media type may be guessed from."""
        return self.uri.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """The bytes of one document could not be read. `transient`: reading again later may help."""

    uri: str
    error_class: str
    message: str
    transient: bool


class Source(Protocol):
    """A place that holds documents."""

    def list(self, *, progress: Progress | None = None) -> Listing:
        """Everything that is there now.

        Raises:
            SourceError: it could not be read as a whole; nothing may be inferred.
        """
        ...

    def fetch(self, uris: Iterable[str]) -> Iterator[Fetched | FetchFailure]:
        """One answer for each of `uris`, in any order, one document in memory at a time."""
        ...

    def look(self, hints: Sequence[Hint]) -> Listing:
        """What is there now of what the hints name, and nothing else.

        A hinted document that is neither an item nor covered by a problem is not there any more. Costs what the hints
        name, not what the source holds, where the source can do that.

        Raises:
            SourceError: it could not be read; nothing may be inferred.
        """
        ...

    def check(self) -> Iterator[Check]:
        """Try connection and permissions, one after the other; never raises for what is wrong at the source.

        Reads as little as possible, and writes nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Polled:
    """What changed since a cursor, and the cursor to go on from once the hints are durable."""

    hints: tuple[Hint, ...]
    cursor: str


@runtime_checkable
class Polling(Protocol):
    """A source that can tell what changed since a cursor, for less than a listing."""

    def poll(self, cursor: str | None) -> Polled:
        """Hints on everything that changed after the cursor (None: everything that is there).

        Raises:
            SourceError: it could not be read; the cursor stays.
        """
        ...


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a stream: the events in it (a rejected one for what could not be understood), and its receipt.

    A message that concerns nobody has no events and is acknowledged all the same.
    """

    events: tuple[Event, ...]
    receipt: object = None


@dataclass(frozen=True, slots=True)
class Lag:
    """What waits in a stream and is not durable yet. None: the stream cannot tell."""

    messages: int | None
    oldest_seconds: float | None = None


class Stream(Protocol):
    """Announcements of changes, in any order, each at least once. Used by one thread."""

    def receive(self, *, limit: int, wait_seconds: float) -> Sequence[Received]:
        """At most `limit` messages; waits up to `wait_seconds` for the first one, and no longer for more.

        What was received and not acknowledged comes again, at the latest after a restart. A message that cannot be
        understood is an event of the type "rejected", and never an exception.

        Raises:
            SourceError: it cannot be reached, or may not be read.
        """
        ...

    def acknowledge(self, received: Sequence[Received]) -> None:
        """Those messages are durable and need not come again.

        Raises:
            SourceError: it could not be told; they will come again, which does no harm.
        """
        ...

    def lag(self) -> Lag:
        """What waits."""
        ...

    def close(self) -> None:
        """Let go of connections; no message is lost."""
        ...


class ListingBuilder:
    """Collects items into Arrow batches, so that a long listing costs its bytes and not its objects."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._rows: list[SourceItem] = []
        self._batches: list[pa.RecordBatch] = []
        self._problems: list[Problem] = []
        self._unnamed = 0
        self.items = 0

    def add(self, item: SourceItem) -> None:
        """One more document."""
        self._rows.append(item)
        self.items += 1
        if self._progress is not None and self.items % 1_000 == 0:
            self._progress(self.items, 0)
        if len(self._rows) >= _BATCH_ROWS:
            self._flush()

    def problem(self, problem: Problem) -> None:
        """One more thing that could not be listed. Above a thousand they are counted, and nothing is deleted."""
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(problem)
        else:
            self._unnamed += 1

    @property
    def problems(self) -> int:
        """How many there were so far."""
        return len(self._problems) + self._unnamed

    def table(self) -> pa.Table:
        """The items so far, as `ITEMS`."""
        self._flush()
        return pa.Table.from_batches(self._batches, schema=ITEMS)

    def build(self, items: pa.Table | None = None) -> Listing:
        """The listing of all that was added, or of the part of it that is given."""
        items = self.table() if items is None else items
        problems = list(self._problems)
        if self._unnamed:
            text = f"{self._unnamed:,} further problems are not named; until there are fewer, nothing is deleted"
            problems.append(Problem("", "TooManyProblems", text, subtree=True))
        if self._progress is not None:
            self._progress(self.items, self.items)
        return Listing(items, tuple(problems))

    def _flush(self) -> None:
        if not self._rows:
            return
        rows = self._rows
        columns = [
            [r.uri for r in rows],
            [r.size_bytes for r in rows],
            [r.etag for r in rows],
            [r.modified_at for r in rows],
            [r.readers for r in rows],
            [None if r.metadata is None else json.dumps(r.metadata, ensure_ascii=False, sort_keys=True) for r in rows],
        ]
        arrays = [pa.array(values, type=f.type) for values, f in zip(columns, ITEMS, strict=True)]
        self._batches.append(pa.record_batch(arrays, schema=ITEMS))
        self._rows = []
