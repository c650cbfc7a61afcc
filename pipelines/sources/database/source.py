"""The source `database`: rows of a table or view, through SQLAlchemy. Listed by key and time, without their texts.

A row's etag is the time of its last change. Two writes may leave the same time, where it counts in seconds or where
clocks differ; so a row that changed a moment ago is given without an etag, and read again until it has come to rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import AccessError, LockstepError, SourceError
from pipelines.sources.base import (
    Check,
    Fetched,
    FetchFailure,
    Hint,
    Listing,
    ListingBuilder,
    Polled,
    Problem,
    Progress,
    SourceItem,
)
from pipelines.sources.database.cursor import mark_of, read_cursor, write_cursor
from pipelines.sources.database.engine import again, make_engine, now, reading
from pipelines.sources.database.rows import (
    BadRow,
    content_of,
    has_fraction,
    is_deleted,
    plain,
    readers_of,
    stamp,
    uri_of,
)
from pipelines.sources.database.section import DatabaseSource
from pipelines.sources.database.table import TableOfRows
from pipelines.sources.hinted import hinted_part

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_RACY_SECONDS = 2.0  # two writes may leave the same time where it has fractions, too: clocks count in steps
_LIST_ROWS = 10_000  # held at a time; they are keys and times
_LOOK_KEYS = 200  # of one statement
_TEXT_BYTES = 8 * 1024 * 1024  # held at a time at least, where documents are small
_MAX_HINTS = 50_000  # of one poll; after more than that everything is looked at
_MAX_SEEN = 10_000  # kept in a cursor
_SKEW_SECONDS = 30.0  # between the database's clock and ours, before it is worth a word


class Database:
    """A table or view as a source."""

    def __init__(self, section: DatabaseSource) -> None:
        self._section = section
        self._made: Engine | None = None

    def list(self, *, progress: Progress | None = None) -> Listing:
        """Every row's key and time, in one statement; rows with a tombstone are left out.

        A row without a usable key could be any document, so nothing is deleted while there is one.

        Raises:
            SourceForbidden: wrong password, or no right to read.
            SourceError: it does not answer, broke off, or lacks the table or a column.
        """
        return again(lambda: self._list_once(progress))

    def look(self, hints: Sequence[Hint]) -> Listing:
        """The rows with the hinted keys; for a hinted folder a listing.

        Raises:
            SourceError: as `list`.
        """
        if any(hint.subtree for hint in hints):
            return hinted_part(self.list(), hints)
        return again(lambda: self._look_once(sorted({hint.uri for hint in hints})))

    def fetch(self, uris: Iterable[str]) -> Iterator[Fetched | FetchFailure]:
        """The text of each row. One that cannot be decoded is a failure of its own.

        Raises:
            SourceError: as `list`.
        """
        wanted = list(dict.fromkeys(uris))
        for start in range(0, len(wanted), _LOOK_KEYS):
            left = dict.fromkeys(wanted[start : start + _LOOK_KEYS])
            try:
                for answer in self._fetch_some(list(left)):
                    del left[answer.uri]
                    yield answer
            except _Undecodable:
                for uri in list(left):
                    yield self._fetch_one(uri)
                continue
            for uri in left:
                yield self._gone(uri)

    def poll(self, cursor: str | None) -> Polled:
        """Hints on the rows whose time is later than the cursor, less the overlap; everything without a cursor.

        A row that was told already, with the same time, is not told again, unless it may have changed since.

        Raises:
            SourceError: as `list`.
        """
        return again(lambda: self._poll_once(cursor))

    def check(self) -> Iterator[Check]:
        """Whether the database answers, has the table and its columns, lets them be read, and has the right time."""
        steps = {
            "connect": self._try_connect,
            "table": self._try_table,
            "read": self._try_read,
            "clock": self._try_clock,
        }
        for name, attempt in steps.items():
            try:
                message = attempt()
            except LockstepError as error:
                yield Check(name, ok=False, message=str(error))
                return
            yield Check(name, ok=True, message=message)

    def _try_connect(self) -> str:
        with reading(self._section, self._engine(), "read the tables") as connection:
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            return f"{connection.dialect.name} {version} answers at {self._section.shown_url}"

    def _try_table(self) -> str:
        with reading(self._section, self._engine(), "look at the columns") as connection:
            table = TableOfRows.reflect(self._section, connection)
            return f"{self._section.table!r} has the {len(table.table.c)} columns that are named"

    def _try_read(self) -> str:
        with reading(self._section, self._engine(), "read the rows") as connection:
            table = TableOfRows.reflect(self._section, connection)
            row = connection.execute(table.documents().limit(1)).first()
            return "a row can be read" if row else "its rows can be read; there is none so far"

    def _try_clock(self) -> str:
        with reading(self._section, self._engine(), "read the clock") as connection:
            skew = (now(connection) - datetime.now(UTC)).total_seconds()
        if abs(skew) > max(_SKEW_SECONDS, self._section.overlap_seconds):
            raise SourceError(
                f"source {self._section.name!r}: the database's clock is {abs(skew):,.0f} seconds "
                f"{'ahead' if skew > 0 else 'behind'}; set one of the two, or raise `overlap_seconds` above that"
            )
        return f"its clock differs from this machine's by {abs(skew):.1f} seconds"

    def _engine(self) -> Engine:
        if self._made is None:
            self._made = make_engine(self._section)
        return self._made

    def _list_once(self, progress: Progress | None) -> Listing:
        found = ListingBuilder(progress)
        with reading(self._section, self._engine(), "list the rows") as connection:
            table = TableOfRows.reflect(self._section, connection)
            self._add(connection, table.keys(), found)
        return self._built(found)

    def _look_once(self, uris: Sequence[str]) -> Listing:
        found = ListingBuilder()
        if uris:
            with reading(self._section, self._engine(), "look at rows") as connection:
                table = TableOfRows.reflect(self._section, connection)
                for start in range(0, len(uris), _LOOK_KEYS):
                    select = table.of_uris(table.keys(), uris[start : start + _LOOK_KEYS])
                    if select is not None:
                        self._add(connection, select, found)
        listing = self._built(found)
        return hinted_part(listing, [Hint(uri) for uri in uris])

    def _add(self, connection: Connection, select: Any, found: ListingBuilder) -> None:
        keys = len(self._section.columns.key)
        for row in connection.execution_options(yield_per=_LIST_ROWS).execute(select):
            try:
                uri = uri_of(row[:keys])
            except BadRow as error:
                text = f"a row of {self._section.table!r}: {error}; correct it. Until then no document of this source "
                found.problem(Problem("", error.error_class, text + "is deleted, it may be any of them", subtree=True))
                continue
            if is_deleted(row[keys + 1]):
                continue
            try:
                etag, at = stamp(row[keys])
            except BadRow as error:
                text = f"the row {uri} of {self._section.table!r}: {error}; correct the column "
                found.problem(Problem(uri, error.error_class, text + repr(self._section.columns.updated_at)))
                continue
            try:
                readers = readers_of(row[keys + 2])
            except AccessError as error:
                readers = ()  # nobody may read it rather than whoever could before
                text = f"the row {uri} of {self._section.table!r}: {error}; until it is corrected nobody may read it"
                found.problem(Problem(uri, "BadReaders", text))
            found.add(SourceItem(uri, None, etag=etag, modified_at=at, readers=readers))

    def _built(self, found: ListingBuilder) -> Listing:
        """Without the rows that share a key: which of them the document is, nobody can tell."""
        items = found.table()
        uris = items["uri"]
        if pc.count_distinct(uris).as_py() < len(uris):
            counts = pc.value_counts(uris)
            doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
            for uri in doubled.to_pylist():
                text = f"several rows of {self._section.table!r} have the key {uri}; make `columns.key` name a unique "
                found.problem(Problem(uri, "DuplicateKey", text + "key. The document stays as it is until then"))
            items = items.filter(pc.invert(pc.is_in(uris, value_set=pa.array(doubled.to_pylist(), pa.string()))))
        return replace(found.build(items), reports_readers=self._section.reports_readers)

    def _fetch_some(self, uris: Sequence[str]) -> Iterator[Fetched | FetchFailure]:
        import sqlalchemy as sa

        wanted = set(uris)
        section = self._section
        with reading(section, self._engine(), "read the rows") as connection:
            table = TableOfRows.reflect(section, connection)
            select = table.of_uris(table.documents(), uris)
            if select is None:
                return
            at_once = max(1, min(_LOOK_KEYS, _TEXT_BYTES // section.max_bytes))
            asked_at = now(connection)
            try:
                for row in connection.execution_options(yield_per=at_once).execute(select):
                    answer = self._answer(row, asked_at)
                    if answer is not None and answer.uri in wanted:
                        wanted.discard(answer.uri)
                        yield answer
            except (sa.exc.DataError, UnicodeError, ValueError, TypeError, OverflowError) as error:
                raise _Undecodable(str(error)) from error

    def _fetch_one(self, uri: str) -> Fetched | FetchFailure:
        try:
            found = next(self._fetch_some([uri]), None)
        except _Undecodable as error:
            text = f"the row {uri} of {self._section.table!r} cannot be decoded: {error}; correct it"
            return FetchFailure(uri, "BadRow", text, transient=False)
        return found or self._gone(uri)

    def _gone(self, uri: str) -> FetchFailure:
        text = f"the row {uri} is gone from {self._section.table!r} since it was listed; the next update sees it"
        return FetchFailure(uri, "Gone", text, transient=True)

    def _answer(self, row: Any, asked_at: datetime) -> Fetched | FetchFailure | None:
        """A row as a document; None if its key is none, or it is deleted."""
        section, keys = self._section, len(self._section.columns.key)
        try:
            uri = uri_of(row[:keys])
        except BadRow:
            return None
        if is_deleted(row[keys + 1]):
            return None
        length, text = row[keys + 3], row[keys + 4]
        try:
            etag, at = stamp(row[keys])
            if length is not None and length > section.max_bytes:
                raise BadRow("TooLarge", f"the row {uri} is too large: {length:,} characters or bytes")
            content = content_of(text, uri)
            if len(content) > section.max_bytes:
                raise BadRow("TooLarge", f"the row {uri} is too large: {len(content):,} bytes")
        except BadRow as error:
            advice = f"`max_bytes` of its source allows {section.max_bytes:,}" * (error.error_class == "TooLarge")
            return FetchFailure(uri, error.error_class, f"{error}; {advice or 'correct the row'}", transient=False)
        told = {
            name: value
            for name, raw in zip(section.columns.described(), row[keys + 5 :], strict=True)
            if (value := plain(raw)) is not None
        }
        media_type = told.pop("media_type", "")
        return Fetched(
            uri,
            content,
            len(content),
            etag=None if self._racy(etag, at, asked_at) else etag,
            modified_at=at,
            media_type=media_type.lower() if "/" in media_type else None,
            metadata=told,
        )

    def _racy(self, etag: str, at: datetime, asked_at: datetime) -> bool:
        """Whether another write may still leave the same time."""
        window = _RACY_SECONDS if has_fraction(etag) else max(_RACY_SECONDS, self._section.overlap_seconds)
        return at > asked_at - timedelta(seconds=window)

    def _poll_once(self, cursor: str | None) -> Polled:
        section = self._section
        after, seen = read_cursor(cursor)
        overlap = timedelta(seconds=section.overlap_seconds)
        with reading(section, self._engine(), "poll the rows") as connection:
            table = TableOfRows.reflect(section, connection)
            asked_at = now(connection)
            newest = table.newest(connection)
            if after is None or newest is None:
                start = asked_at if newest is None else min(stamp(newest)[1], asked_at)
                everything = () if newest is None and after is not None else (Hint("", subtree=True),)
                return Polled(everything, write_cursor(after or start, ()))
            select = table.changed_since(after - overlap, newest).limit(_MAX_HINTS + 1)
            rows = connection.execute(select).fetchall()
        keys = len(section.columns.key)
        told: list[tuple[datetime, str]] = []
        hints: dict[str, Hint] = {}
        latest = after
        for row in rows:
            try:
                uri, (etag, at) = uri_of(row[:keys]), stamp(row[keys])
            except BadRow:
                continue  # a problem of the next listing
            latest = max(latest, min(at, asked_at))
            mark = mark_of(uri, etag, is_deleted(row[keys + 1]))
            if mark not in seen:
                hints[uri] = Hint(uri)
            if not self._racy(etag, at, asked_at):
                told.append((at, mark))
        if len(rows) > _MAX_HINTS:
            return Polled((Hint("", subtree=True),), write_cursor(min(stamp(newest)[1], asked_at), ()))
        kept = [mark for at, mark in sorted(told, reverse=True) if at >= latest - overlap][:_MAX_SEEN]
        return Polled(tuple(hints.values()), write_cursor(latest, kept))


class _Undecodable(Exception):
    """One of the rows that were asked for cannot be turned into Python's values."""
