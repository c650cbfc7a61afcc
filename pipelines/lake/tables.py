"""The versioned Delta tables: reading, appending, merging and the change feed, all checked against `schemas`.

What a row means is not known here; see `manifest`, `derive` and `snapshots` for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipelines.errors import LakeError
from pipelines.lake import files
from pipelines.lake.open_tables import OpenTables
from pipelines.lake.schemas import TABLES

_T = TypeVar("_T")

Keep = Callable[[pa.RecordBatch], pa.Array]
"""Which rows of a batch stay, as booleans."""

_CHANGE_FEED = "delta.enableChangeDataFeed"
_SPECIAL: dict[str, dict[str, str]] = {
    # Its versions are what snapshots are made from: how long its log reaches back is ours to decide (maintenance).
    "documents": {_CHANGE_FEED: "true", "delta.enableExpiredLogCleanup": "false"},
    # Without this the log repeats the beginnings of texts, long after their document was deleted.
    "elements": {"delta.dataSkippingStatsColumns": "content_hash,parser_fp"},
    "chunks": {"delta.dataSkippingStatsColumns": "content_hash,recipe_fp,ordinal,text_hash"},
}
_CONFIGURATION: dict[str, dict[str, str]] = {
    # Opening reads every commit since the last checkpoint: 5 ms right after one, 23 ms when 42 came since.
    name: {"delta.checkpointInterval": "20", **_SPECIAL.get(name, {})}
    for name in TABLES
}

# A merge writes files whose strings read back as views, which filters of a scan do not take: these small tables are
# filtered in memory.
_MERGED = frozenset({"documents", "dead_letters"})
# Each append leaves a file, and a read opens every one: 2.4 s of processor time an update after 60 of them, 1.4 s when
# these are gathered. Files above the size are left alone, so that what is written again stays small.
_GATHERED_EVERY = 16  # commits
_SMALL_FILE_BYTES = 2 * 1024 * 1024
_MERGED_ROWS = 32_768  # of such a table held unfiltered


class Lake:
    """The tables under one folder or object-store prefix.

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
            if where is None or name not in _MERGED:
                return self._in_words(name, lambda: self._dataset(name, version).to_table(columns=names, filter=where))
            return self._in_words(name, lambda: self._filtered(name, names, where, version))

    def _filtered(self, name: str, names: Sequence[str], where: ds.Expression, version: int | None) -> pa.Table:
        """Rows of a merged table, a batch at a time: only what is asked for is held, not the whole table."""
        schema = pa.schema([TABLES[name].field(column) for column in names])
        dataset = self._dataset(name, version)
        parts: list[pa.RecordBatch] = []
        total = 0
        columns = list(names) if _decides(where, schema) else None
        for batch in dataset.to_batches(columns, batch_size=_MERGED_ROWS, batch_readahead=2, fragment_readahead=1):
            parts += pa.Table.from_batches([batch]).filter(where).select(names).to_batches()
            total += len(batch)
        if total > _MERGED_ROWS:
            pa.default_memory_pool().release_unused()  # the pool would keep what unpacking took: 100 MB of a million
        return pa.Table.from_batches(parts, schema=parts[0].schema if parts else schema)

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
            dataset = self._in_words(name, lambda: self._dataset(name, None))
            batches = dataset.to_batches(columns=names, filter=where, batch_size=batch_rows, batch_readahead=2)
            while True:
                batch = self._in_words(name, lambda: next(batches, None))
                if batch is None:
                    return
                if batch.num_rows:
                    yield batch

    def files(self, name: str, version: int) -> ds.FileSystemDataset:
        """The files that make up a version of a table that was written.

        Raises:
            LakeError: the table is damaged, or that version is gone.
        """
        return self._in_words(name, lambda: self._tables.files(self.uri(name), TABLES[name], version))

    def append(self, name: str, rows: pa.Table, *, run_id: str) -> int:
        """Append rows in one commit and return the table's new version; no rows, no commit.

        Raises:
            LakeError: the rows' schema is not the table's, or the commit failed; nothing was added.
        """
        if rows.num_rows == 0:
            return self.version(name)
        rows = self._checked(name, rows)
        table = self._writable(name, run_id) or self._create(name)
        self._in_words(name, lambda: write_deltalake(table, rows, mode="append", commit_properties=_commit(run_id)))
        version = self.version(name)
        if name in _MERGED or version % _GATHERED_EVERY:
            return version
        return self._gather(name, run_id)

    def merge(self, name: str, rows: pa.Table, *, key: str, run_id: str) -> int:
        """Insert or replace rows by key in one commit and return the table's new version; no rows, no commit.

        Raises:
            LakeError: the rows' schema is not the table's, or the commit failed; nothing was changed.
        """
        if rows.num_rows == 0:
            return self.version(name)
        table = self._writable(name, run_id)
        if table is None:
            return self.append(name, rows, run_id=run_id)
        rows = self._checked(name, rows)

        def run() -> None:
            (
                table.merge(
                    rows,
                    f"target.{key} = source.{key}",
                    source_alias="source",
                    target_alias="target",
                    commit_properties=_commit(run_id),
                )
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute()
            )

        self._in_words(name, run)
        return self.version(name)

    def replace(self, name: str, rows: pa.Table, *, key: str, run_id: str) -> int:
        """What `merge` does, by writing the whole table in one commit: a quarter of the time while it is small.

        Only for a table without a change feed that is written under the writer lock: rows that another process adds at
        the same time could stay beside their replacement.

        Raises:
            LakeError: the rows' schema is not the table's, or the commit failed; nothing was changed.
        """
        if rows.num_rows == 0:
            return self.version(name)
        rows = self._checked(name, rows)
        table = self._writable(name, run_id) or self._create(name)
        others = self.read(name, where=pc.invert(pc.field(key).isin(rows[key].combine_chunks())))
        whole = pa.concat_tables([others, rows])
        self._in_words(name, lambda: write_deltalake(table, whole, mode="overwrite", commit_properties=_commit(run_id)))
        return self.version(name)

    def rewrite(self, name: str, *, keep: Keep | None = None, run_id: str) -> int:
        """Write a table anew with the rows that are to be kept, in one commit and few large files.

        Not for a table whose change feed is read: to that, every row would have gone and come again.

        Returns:
            How many rows went.

        Raises:
            LakeError: it could not be written; the table is as it was.
        """
        table = self._writable(name, run_id)
        if table is None or _CHANGE_FEED in _CONFIGURATION[name]:
            return 0
        schema, before, after = TABLES[name], self.count(name), 0
        batches = self.scan(name)

        def kept() -> Iterator[pa.RecordBatch]:
            nonlocal after
            # The writer asks from a thread of delta-rs' own, in which delta-rs must not be called.
            while (batch := readers.submit(next, batches, None).result()) is not None:
                rows = batch if keep is None else batch.filter(keep(batch))
                after += rows.num_rows
                yield rows

        def write() -> None:
            rows = pa.RecordBatchReader.from_batches(schema, kept())
            write_deltalake(table, rows, mode="overwrite", commit_properties=_commit(run_id))

        with ThreadPoolExecutor(1) as readers:
            self._in_words(name, write)
        return before - after

    def compact(self, name: str, *, run_id: str) -> None:
        """Merge small files of a table into larger ones, in one commit that changes no row and no change feed."""
        table = self._writable(name, run_id)
        if table is not None:
            self._in_words(name, lambda: table.optimize.compact(commit_properties=_commit(run_id)))

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
        if after >= until:
            empty = TABLES[name].append(pa.field("_change_type", pa.string()))
            return empty.append(pa.field("_commit_version", pa.int64())).empty_table()
        table = self._open(name)
        if table is None:
            raise LakeError(f"reading changes of table {name!r}: the table does not exist under {self._root}")
        try:
            with self._reading(name):
                feed = pa.table(table.load_cdf(starting_version=after + 1, ending_version=until).read_all())
        except Exception as error:  # a vacuumed file of the feed reaches Python as a bare Exception
            if "failed to fetch metadata for file" in str(error).lower():
                return None
            raise LakeError(_damaged(name, self._root, error)) from error
        for field in TABLES[name]:
            if field.nullable and field.name not in feed.schema.names:
                feed = feed.append_column(field, pa.nulls(len(feed), field.type))
        columns = [*TABLES[name].names, "_change_type", "_commit_version"]
        types = [*TABLES[name].types, pa.string(), pa.int64()]
        return feed.select(columns).cast(pa.schema(list(zip(columns, types, strict=True))))

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

    # --- internals ---

    def _gather(self, name: str, run_id: str) -> int:
        """Make one file of the small ones that appends left; rows and their order by key stay."""
        table = self._open(name)
        if table is not None:
            # The rows are there already: what another writer prevents now is done some appends later.
            with contextlib.suppress(DeltaError):
                table.optimize.compact(target_size=_SMALL_FILE_BYTES, commit_properties=_commit(run_id))
        return self.version(name)

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

    def _create(self, name: str) -> DeltaTable:
        """An empty table, committed before its first rows: data without a log is then damage, and no killed write."""
        return self._in_words(
            name,
            lambda: DeltaTable.create(
                self.uri(name),
                TABLES[name],
                configuration=dict(_CONFIGURATION[name]),
                storage_options=self._options or None,
            ),
        )

    def _writable(self, name: str, run_id: str) -> DeltaTable | None:
        """The table with every column and property of today: one from before a column existed gets it, empty."""
        table = self._open(name)
        if table is None:
            return None
        lacking = self._lacking(name, table)
        stored = table.metadata().configuration
        unset = {key: value for key, value in _CONFIGURATION[name].items() if stored.get(key) != value}
        if lacking:
            fields = [field for field in Schema.from_arrow(TABLES[name]).fields if field.name in lacking]
            self._in_words(name, lambda: table.alter.add_columns(fields, commit_properties=_commit(run_id)))
        if unset:
            self._in_words(name, lambda: table.alter.set_table_properties(unset, commit_properties=_commit(run_id)))
        return self._open(name)

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

    def _dataset(self, name: str, version: int | None) -> ds.Dataset:
        table = self._open(name)
        if table is None:
            return ds.dataset(TABLES[name].empty_table())
        self._lacking(name, table)
        # Our own schema: a merge writes files whose strings would else read back as views, which have few kernels.
        return self._tables.rows(self.uri(name), TABLES[name], version)

    def _checked(self, name: str, rows: pa.Table) -> pa.Table:
        schema = TABLES[name]
        if set(rows.schema.names) != set(schema.names):
            difference = sorted(set(rows.schema.names) ^ set(schema.names))
            raise LakeError(f"writing table {name!r}: the columns {difference} do not agree with its schema")
        try:
            return rows.select(schema.names).cast(schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise LakeError(f"writing table {name!r}: the rows do not fit its schema: {error}") from error

    def _in_words(self, name: str, action: Callable[[], _T]) -> _T:
        try:
            return action()
        except LakeError:
            raise
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise LakeError(_damaged(name, self._root, error)) from error


def _decides(where: ds.Expression, schema: pa.Schema) -> bool:
    """Whether these columns are enough to say which rows are meant."""
    try:
        schema.empty_table().filter(where)
    except pa.ArrowInvalid:
        return False
    return True


def _commit(run_id: str) -> CommitProperties:
    return CommitProperties(custom_metadata={"lockstep.run_id": run_id})


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
