"""Sources that are what their events say: the fold of `change_events` as a listing.

Of each document the event with the highest version counts (`EventLog.state`), so nothing here depends on the order in
which events came, or how often. How events get into the log belongs to the streams and receivers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.errors import LakeError, SourceError
from pipelines.sources.announced.announcements import AnnouncedSection
from pipelines.sources.base import ITEMS, Check, Fetched, FetchFailure, Hint, Listing, Problem, Progress
from pipelines.sources.parallel import Answer, Room, side_by_side
from pipelines.sources.surroundings import Surroundings

if TYPE_CHECKING:
    from pipelines.sources.announced.pointed import PointerReader

_MOST_PROBLEMS = 1_000
_AT_ONCE = 16  # pointers that are read side by side


class EventSource:
    """The documents that a source's events say it has.

    Args:
        section: the source.
        around: its tables and blobs.
        checks: what its kind tries besides: connection, permissions.
    """

    def __init__(
        self,
        section: AnnouncedSection,
        around: Surroundings,
        checks: Callable[[], Iterator[Check]] = lambda: iter(()),
    ) -> None:
        self._section = section
        self._around = around
        self._checks = checks
        self._until: int | None = None  # the newest event that was there when this source was last listed or looked at

    def list(self, *, progress: Progress | None = None) -> Listing:
        """Every document that was announced and not deleted since.

        Raises:
            SourceError: the log cannot be read.
        """
        self._until = self._newest()
        listing = self._listing(self._state(None, until=self._until))
        if progress is not None:
            progress(len(listing.items), len(listing.items))
        return listing

    def look(self, hints: Sequence[Hint]) -> Listing:
        """What the events say about the hinted documents.

        Raises:
            SourceError: the log cannot be read.
        """
        from pipelines.sources.hinted import hinted_part

        if any(hint.subtree for hint in hints):
            return hinted_part(self.list(), hints)
        self._until = self._newest()
        return self._listing(self._state([hint.uri for hint in hints], until=self._until))

    def fetch(self, uris: Iterable[str]) -> Iterator[Fetched | FetchFailure]:
        """The content of each document by its newest event: from the blobs, or from where the event points to.

        After a listing or a look the newest event is the one that these saw: content of a later one would else go with
        the readers of an earlier one.

        Raises:
            SourceError: the log cannot be read.
            RateLimited: the place that an event points to asks to be left alone.
        """
        import pyarrow.compute as pc

        from pipelines.sources.announced.pointed import PointerReader

        wanted = list(dict.fromkeys(uris))
        seen = self._until
        newest = self._state(wanted)
        state = newest if seen is None else self._state(wanted, until=seen)
        deleted = set(newest.filter(pc.equal(newest["type"], "delete"))["uri"].to_pylist())
        rows = dict(zip(state["uri"].to_pylist(), range(len(state)), strict=True))

        def announced(uri: str) -> dict[str, Any] | None:
            return state.slice(rows[uri], 1).to_pylist()[0] if uri in rows and uri not in deleted else None

        def read(uri: str, room: Room) -> tuple[Answer, int]:
            row = announced(uri)
            size = self._section.max_bytes if row is None or row["size_bytes"] is None else row["size_bytes"]
            room.take(size)  # before it is read: an event that does not say its size may have the largest one
            answer = self._fetch(uri, row, reader)
            held = len(answer.content) if isinstance(answer, Fetched) else 0
            room.give_back(size - held)
            return answer, held

        pointed = set(state.filter(state["pointer"].is_valid())["uri"].to_pylist()) - deleted
        with PointerReader(self._section, self._around.aws_client) as reader:
            for uri in wanted:
                if uri not in pointed:
                    yield self._fetch(uri, announced(uri), reader)
            far = [uri for uri in wanted if uri in pointed]
            yield from side_by_side(far, read, at_once=_AT_ONCE, name=f"pointers {self._section.name}")

    def check(self) -> Iterator[Check]:
        """What its kind tries, and how many events are in the log."""
        import pyarrow.compute as pc

        yield from self._checks()
        try:
            state = self._state(None)
        except SourceError as error:
            yield Check("events", False, str(error))
            return
        there = pc.sum(pc.equal(state["type"], "upsert")).as_py() or 0
        yield Check("events", True, f"the events so far say that there are {there:,} documents")

    def _newest(self) -> int:
        try:
            return self._around.events.last_sequence()
        except LakeError as error:
            raise SourceError(f"source {self._section.name!r}: its events cannot be read: {error}") from error

    def _state(self, uris: Sequence[str] | None, *, until: int | None = None) -> pa.Table:
        try:
            return self._around.events.state(self._section.name, until=until, uris=uris)
        except LakeError as error:
            raise SourceError(f"source {self._section.name!r}: its events cannot be read: {error}") from error

    def _listing(self, state: pa.Table) -> Listing:
        import pyarrow.compute as pc

        there = state.filter(pc.equal(state["type"], "upsert"))
        fits = pc.fill_null(pc.less_equal(there["size_bytes"], self._section.max_bytes), True)
        large = there.filter(pc.invert(fits))
        there = there.filter(fits)
        columns = {
            "uri": there["uri"],
            "size_bytes": there["size_bytes"],
            "etag": there["event_id"],
            "modified_at": there["modified_at"],
            "readers": there["readers"],
            "metadata": there["attributes"],
        }
        items = pa.table([columns[name] for name in ITEMS.names], names=ITEMS.names).cast(ITEMS)
        gone = state.filter(pc.equal(state["type"], "delete"))["uri"]
        return Listing(items, self._too_large(large), reports_readers=True, gone=gone)

    def _too_large(self, large: pa.Table) -> tuple[Problem, ...]:
        """Each document above the limit; of very many the first thousand, and that it is not known of the rest."""
        first = large.select(["uri", "size_bytes"]).slice(0, _MOST_PROBLEMS).to_pylist()
        problems = [Problem(row["uri"], "TooLarge", self._limit(row["uri"], row["size_bytes"])) for row in first]
        if len(large) > len(first):
            text = f"{len(large) - len(first):,} more documents are too large; until they are fewer, nothing is deleted"
            problems.append(Problem("", "TooManyProblems", text, subtree=True))
        return tuple(problems)

    def _limit(self, uri: str, size_bytes: int) -> str:
        return (
            f"{uri} is too large: {size_bytes:,} bytes, and `max_bytes` of source {self._section.name!r} allows "
            f"{self._section.max_bytes:,}; raise it, or have the producer leave the document out"
        )

    def _fetch(self, uri: str, row: dict[str, Any] | None, reader: PointerReader) -> Fetched | FetchFailure:
        if row is None or row["type"] == "delete":
            text = f"{uri} was deleted by an event since it was listed; the next update sees it"
            return FetchFailure(uri, "Gone", text, transient=True)
        if (row["size_bytes"] or 0) > self._section.max_bytes:
            return FetchFailure(uri, "TooLarge", self._limit(uri, row["size_bytes"]), transient=False)
        if row["pointer"] is not None:
            content = reader.read(uri, row["pointer"])
            if isinstance(content, FetchFailure):
                return content
        else:
            try:
                content = self._around.blobs.read(row["content_hash"])
            except LakeError as error:
                return FetchFailure(uri, "BlobMissing", f"the content of {uri}: {error}", transient=False)
        return Fetched(
            uri,
            content,
            len(content),
            row["event_id"],
            row["modified_at"],
            row["media_type"],
            json.loads(row["attributes"]),
        )
