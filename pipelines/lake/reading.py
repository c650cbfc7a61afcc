"""Reading the versioned Delta tables: whole, by key, or what changed, all checked against `schemas`.

Writing them belongs to `tables`; what a row means is not known in either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipelines.errors import LakeError
from pipelines.lake import feed, files, pruning
from pipelines.lake.memory import give_back
from pipelines.lake.open_tables import OpenTables
from pipelines.lake.portions import KEYS, PORTION_ROWS, KeySet, Portion, Wanted, portions
from pipelines.lake.schemas import TABLES

_T = TypeVar("_T")

# A merge writes files whose strings read back as views, which filters of a scan do not take: these tables are filtered
# in memory.
MERGED = frozenset({"documents", "dead_letters"})


class LakeReader:
    """The tables under one folder or object-store prefix, to read.

    A table that was never written reads as empty and has version -1. Each call looks whether the table's log has
    changed, so that a reader sees what another process committed.
    """

    def __init__(self, root: Path | str, *, storage_options: Mapping[str, str] | None = None) -> None:
        self._root = str(root).rstrip("/")
        self._options = dict(storage_options or {})
        self._tables = OpenTables(self._options)

    def uri(self, name: str) -> str:
        """Address of a table's folder."""
        return f"{self._root}/{name}"

    def version(self, name: str) -> int:
        """The newest version of a table, -1 if it was never written.

        Raises:
            LakeError: the table's log is damaged.
        """
        table = self._open(name)
        return -1 if table is None else table.version()

    def identity(self, name: str) -> str | None:
        """What tells a table from another one of its name that was made after it was lost; None: there is none."""
        table = self._open(name)
        return None if table is None else str(table.metadata().id)

    def versions(self) -> dict[str, int]:
        """The newest version of every table."""
        return {name: self.version(name) for name in TABLES}

    def count(self, name: str) -> int:
        """Rows of a table, from its log alone."""
        table = self._open(name)
        return 0 if table is None else int(table.count())

    def derived(self, name: str, what: str, make: Callable[[], _T]) -> _T:
        """What `make` derives from the newest version of a table, made once a version; not to be changed."""
        table = self._open(name)
        return make() if table is None else self._tables.derived(self.uri(name), what, make)

    def greatest(self, name: str, column: str) -> int | None:
        """The largest value of a column of numbers, from the log alone; None when there are no rows."""
        table = self._open(name)
        if table is None or table.count() == 0:
            return None
        largest = pa.table(table.get_add_actions(flatten=True))
        if f"max.{column}" not in largest.schema.names or largest[f"max.{column}"].null_count:
            largest = self.read(name, [column]).rename_columns([f"max.{column}"])  # files without statistics
        found: int | None = pc.max(largest[f"max.{column}"]).as_py()
        return found

    def size_bytes(self, name: str) -> int:
        """Bytes of a table's current files."""
        return sum(self.file_sizes(name))

    def read(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        where: ds.Expression | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Rows of a table as Arrow; empty, with the table's schema, if it was never written.

        Raises:
            LakeError: the table is damaged, has another schema, or that version is gone.
        """
        names = list(TABLES[name].names if columns is None else columns)
        with self._reading(name):
            if where is None or name not in MERGED:
                return self._in_words(name, lambda: _taken(self._rows(name, version), names, where))
            return self._in_words(name, lambda: self._in_memory(name, names, where, version))

    def lookup(
        self,
        name: str,
        wanted: KeySet | Portion | pa.Array | pa.ChunkedArray | Iterable[str],
        columns: Sequence[str] | None = None,
        *,
        where: ds.Expression | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """The rows of some keys (see `KEYS`), or of a portion of them; files that cannot have one are not opened.

        Raises:
            LakeError: as for `read`.
        """
        names = list(TABLES[name].names if columns is None else columns)
        batches = list(self.lookup_batches(name, wanted, names, where=where, version=version))
        return pa.Table.from_batches(batches, schema=pa.schema([TABLES[name].field(column) for column in names]))

    def lookup_batches(
        self,
        name: str,
        wanted: KeySet | Portion | pa.Array | pa.ChunkedArray | Iterable[str],
        columns: Sequence[str] | None = None,
        *,
        where: ds.Expression | None = None,
        version: int | None = None,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        """Like `lookup`, a batch at a time, so that memory does not grow with the rows that are found."""
        names = list(TABLES[name].names if columns is None else columns)
        wanted = wanted if isinstance(wanted, KeySet | Portion) else KeySet(wanted)
        if isinstance(wanted, KeySet) and not len(wanted):
            return
        key = KEYS[name]
        with self._reading(name):
            found = self._in_words(name, lambda: self._rows(name, version, key=key, wanted=wanted))
            rows = pruning.rows(found, names, where=where, key=key, wanted=wanted, batch_rows=batch_rows)
            while (batch := self._in_words(name, lambda: next(rows, None))) is not None:
                yield batch

    def _in_memory(self, name: str, names: Sequence[str], where: ds.Expression, version: int | None) -> pa.Table:
        """Rows of a merged table, a batch at a time: only what is asked for is held, not the whole table."""
        source = self._rows(name, version)
        parts = list(pruning.rows(source, names, where=where))
        if not isinstance(source, pa.Table) and source.count_rows() > PORTION_ROWS:
            give_back()  # the pool would keep what unpacking took: 100 MB of a million
        return pa.Table.from_batches(parts, schema=pa.schema([TABLES[name].field(column) for column in names]))

    def scan(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        where: ds.Expression | None = None,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        """Like `read`, a batch at a time, so that memory does not grow with the table. For tables without merges."""
        names = list(TABLES[name].names if columns is None else columns)
        with self._reading(name):
            source = self._in_words(name, lambda: self._rows(name, None))
            read = pruning.rows if isinstance(source, pa.Table) else pruning.scanned
            batches = read(source, names, where=where, batch_rows=batch_rows)
            while True:
                batch = self._in_words(name, lambda: next(batches, None))
                if batch is None:
                    return
                if batch.num_rows:
                    yield batch

    def few(self, name: str, columns: Sequence[str], rows: int) -> pa.Table:
        """Some rows of a table's newest file, for a look at it: no other file is opened, however many there are."""
        if self._open(name) is None:
            return TABLES[name].empty_table().select(list(columns))
        facts = self._tables.facts(self.uri(name))
        newest = facts.sort_by([("modification_time", "descending")]).slice(0, 1)
        with self._reading(name):
            source = self._in_words(name, lambda: self._tables.some(self.uri(name), TABLES[name], newest))
            if isinstance(source, pa.Table):
                return source.select(list(columns)).slice(0, rows)
            read = {"batch_readahead": 0, "fragment_readahead": 0}
            return self._in_words(name, lambda: source.head(rows, columns=list(columns), **read))

    def newest(self, name: str, columns: Sequence[str], *, by: str, rows: int) -> pa.Table:
        """At least so many of the rows with the largest values of a column, as far as there are; in no order.

        Files whose values are all smaller than that are not opened.
        """
        table = self._open(name)
        if table is None:
            return TABLES[name].empty_table().select(list(columns))
        facts = self._tables.facts(self.uri(name))
        names = (f"min.{by}", f"max.{by}")
        if set(names) <= set(facts.schema.names) and not facts[names[1]].null_count:
            facts = facts.sort_by([(names[1], "descending")])
            smallest = None
            for low, count, high in zip(
                *(facts[column].to_pylist() for column in (names[0], "num_records", names[1])), strict=True
            ):
                if rows <= 0 and smallest is not None and high < smallest:
                    break
                smallest = low if smallest is None else min(smallest, low)
                rows -= count
            return self.after(name, columns, by=by, value=smallest, inclusive=True)
        return self.read(name, columns)

    def after(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        by: str,
        value: object,
        until: object = None,
        inclusive: bool = False,
        where: ds.Expression | None = None,
    ) -> pa.Table:
        """The rows with a larger value of a column (or the same), up to `until`; other files stay closed."""
        names = list(TABLES[name].names if columns is None else columns)
        larger = pc.field(by) >= pc.scalar(value) if inclusive else pc.field(by) > pc.scalar(value)
        where = larger if where is None else larger & where
        if until is not None:
            where &= pc.field(by) <= pc.scalar(until)
        if self._open(name) is None:
            return TABLES[name].empty_table().select(names)
        uri = self.uri(name)

        def found() -> pa.Table:
            facts = self._tables.facts(uri)
            if f"max.{by}" in facts.schema.names:
                largest = facts[f"max.{by}"]
                new = pc.greater_equal(largest, value) if inclusive else pc.greater(largest, value)
                new = pc.fill_null(new, True)
                if until is not None and f"min.{by}" in facts.schema.names:
                    new = pc.and_(new, pc.fill_null(pc.less_equal(facts[f"min.{by}"], until), True))
                if f"null_count.{by}" in facts.schema.names:
                    nothing = pc.equal(facts[f"null_count.{by}"], facts["num_records"])
                    new = pc.and_(new, pc.invert(pc.fill_null(nothing, False)))
                facts = facts.filter(new)
            if not len(facts):
                return TABLES[name].empty_table().select(names)
            return _taken(self._tables.some(uri, TABLES[name], facts), names, where)

        with self._reading(name):
            return self._in_words(name, found)

    def files(self, name: str, version: int) -> ds.FileSystemDataset:
        """The files that make up a version of a table that was written.

        Raises:
            LakeError: the table is damaged, or that version is gone.
        """
        return self._in_words(name, lambda: self._tables.files(self.uri(name), TABLES[name], version))

    def file_sizes(self, name: str) -> list[int]:
        """Bytes of each of a table's current files."""
        table = self._open(name)
        if table is None:
            return []
        sizes: list[int] = pa.table(table.get_add_actions(flatten=True))["size_bytes"].to_pylist()
        return sizes

    def changes(self, name: str, after: int, until: int) -> pa.Table | None:
        """The change feed of versions `after` + 1 to `until`, both images, with `_change_type` and `_commit_version`.

        Returns:
            None when the feed no longer reaches back that far (vacuumed): the caller must compare in full.
        """
        told = self._told(name, after, until)
        return told if isinstance(told, pa.Table) else None

    def change_parts(self, name: str, after: int, until: int) -> Iterator[pa.Table] | None:
        """The same in parts, each with all that the feed says of its keys: what is held does not grow with the feed.

        Returns:
            None as for `changes`.
        """
        few = self._told(name, after, until, at_most=PORTION_ROWS)
        if few is None:
            return None
        if isinstance(few, pa.Table):
            return iter([few])
        return (self._part(name, after, until, portion) for portion in portions(few))

    def _part(self, name: str, after: int, until: int, portion: Portion) -> pa.Table:
        part = self._told(name, after, until, portion=portion)
        if not isinstance(part, pa.Table):
            raise LakeError(f"reading changes of table {name!r}: files went while it was read; run the update again")
        return part

    def _told(
        self, name: str, after: int, until: int, *, portion: Portion | None = None, at_most: int | None = None
    ) -> pa.Table | int | None:
        """The feed, or what it says of a portion of the keys; its rows alone where these are more than `at_most`."""
        if after >= until:
            return feed.schema_of(name).empty_table()
        table = self._open(name)
        if table is None:
            raise LakeError(f"reading changes of table {name!r}: the table does not exist under {self._root}")
        found: list[pa.RecordBatch] = []
        rows = 0
        try:
            with self._reading(name):
                told = pa.RecordBatchReader.from_stream(
                    table.load_cdf(starting_version=after + 1, ending_version=until)
                )
                schema = feed.without_views(told.schema)
                for batch in told:
                    part = batch.cast(schema)
                    if portion is not None:
                        part = part.filter(portion.among(part[KEYS[name]]))
                    rows += part.num_rows
                    if at_most is not None and rows > at_most:
                        found = []
                    elif part.num_rows:
                        found.append(part)
        except Exception as error:  # a vacuumed file of the feed reaches Python as a bare Exception
            if "failed to fetch metadata for file" in str(error).lower():
                return None
            raise LakeError(_damaged(name, self._root, error)) from error
        if at_most is not None and rows > at_most:
            return rows
        return feed.as_told(name, pa.Table.from_batches(found, schema=schema), KEYS[name])

    def history(self, name: str, limit: int | None = None) -> list[dict[str, object]]:
        """The commits of a table, newest first."""
        table = self._open(name)
        return [] if table is None else table.history(limit)

    def committed_at(self, name: str, version: int) -> datetime | None:
        """When a version was committed; None when it is not there, or its log was cleaned up."""
        limit = self.version(name) - version + 1
        commits = self.history(name, limit) if version >= 0 and limit > 0 else []
        found = next((commit.get("timestamp") for commit in commits if commit.get("version") == version), None)
        return datetime.fromtimestamp(found / 1000, UTC) if isinstance(found, int) else None

    def _open(self, name: str) -> DeltaTable | None:
        if name not in TABLES:
            raise LakeError(f"no table is called {name!r}; there are: {', '.join(TABLES)}")
        try:
            return self._tables.table(self.uri(name))
        except TableNotFoundError:
            if self._has_leftovers(name):
                raise LakeError(
                    f"table {name!r} under {self._root} has data files but no readable Delta log; restore its "
                    "_delta_log from a backup, or move the folder away: `lockstep update --full` makes it again"
                ) from None
            return None
        except (DeltaError, OSError, ValueError) as error:
            raise LakeError(_damaged(name, self._root, error)) from error

    def _reading(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if "://" in self._root else files.reading(Path(self.uri(name)))

    def _lacking(self, name: str, table: DeltaTable) -> list[str]:
        """Columns that the table was written without; they read as null.

        Raises:
            LakeError: one of them cannot be null.
        """
        stored = {field.name for field in table.schema().fields}
        lacking = [field for field in TABLES[name] if field.name not in stored]
        if not all(field.nullable for field in lacking):
            raise LakeError(
                f"table {name!r} under {self._root} lacks the columns {sorted(f.name for f in lacking)}: it was "
                "written by another version of Lockstep; use a new LOCKSTEP_HOME, or move the table away so that it is "
                "derived anew"
            )
        return [field.name for field in lacking]

    def _has_leftovers(self, name: str) -> bool:
        folder = Path(self.uri(name))
        return folder.is_dir() and any(folder.glob("**/*.parquet"))

    def _rows(
        self, name: str, version: int | None, *, key: str = "", wanted: Wanted | None = None
    ) -> pa.Table | ds.FileSystemDataset:
        """Where to take rows from: those of a small table, held, or files, if possible those alone that have them."""
        table = self._open(name)
        if table is None:
            return TABLES[name].empty_table()
        self._tables.derived(self.uri(name), "columns that it lacks", lambda: self._lacking(name, table))
        # Our own schema: a merge writes files whose strings would else read back as views, which have few kernels.
        return self._tables.rows(self.uri(name), TABLES[name], version, key=key, wanted=wanted)

    def _in_words(self, name: str, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except LakeError:
            raise
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise LakeError(_damaged(name, self._root, error)) from error


def _taken(source: pa.Table | ds.FileSystemDataset, names: Sequence[str], where: ds.Expression | None) -> pa.Table:
    if isinstance(source, pa.Table):
        return pruning.taken(source, names, where=where)
    return source.to_table(columns=list(names), filter=where)


def _damaged(name: str, root: str, error: BaseException) -> str:
    text = " ".join(str(error).split()).split(" 0: <unknown>")[0]  # without the engine's stack
    if "no space left" in text.lower():
        advice = "free space on that disk and run the update again: it continues where it stopped"
    else:
        advice = (
            "restore that folder from a backup, or move it away: `lockstep update --full` then makes the table again "
            "from the sources and the other tables (of audit_log, the history so far is lost)"
        )
    return f"table {name!r} under {root} cannot be used: {text}; {advice}"
