"""The versioned Delta tables: appending, merging and writing them anew, all checked against `schemas`.

Reading is in `reading`. What a row means is not known here; see `manifest`, `derive` and `snapshots` for that.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from itertools import chain
from operator import or_
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError

from pipelines.errors import LakeError
from pipelines.lake import layout
from pipelines.lake.portions import KEYS, PORTION_ROWS, portions
from pipelines.lake.reading import MERGED, LakeReader
from pipelines.lake.schemas import TABLES

Keep = Callable[[pa.RecordBatch], pa.Array]
"""Which rows of a batch stay, as booleans."""

_CHANGE_FEED = "delta.enableChangeDataFeed"
_SPECIAL: dict[str, dict[str, str]] = {
    # Its versions are what snapshots are made from: how long its log reaches back is ours to decide (maintenance).
    "documents": {
        _CHANGE_FEED: "true",
        "delta.enableExpiredLogCleanup": "false",
        "delta.dataSkippingStatsColumns": "doc_id,source,status,deleted_at",
    },
    # Without this the log repeats the beginnings of texts, long after their document was deleted.
    "elements": {"delta.dataSkippingStatsColumns": "content_hash,parser_fp"},
    "chunks": {"delta.dataSkippingStatsColumns": "content_hash,recipe_fp,ordinal,text_hash"},
    # Without this each commit repeats two models and the results of two snapshots' gates: 37 KB an update.
    "index_snapshots": {"delta.dataSkippingStatsColumns": "sequence,status"},
}
_CONFIGURATION: dict[str, dict[str, str]] = {
    name: {
        # Opening reads every commit since the last checkpoint: 5 ms right after one, 23 ms when 42 came since.
        "delta.checkpointInterval": "20",
        # It lists the whole log, too, and the checkpoint tells of files that were removed: with the 30 days and the
        # week of Delta, each opening took 0.02 ms more with each update. Of these tables nothing reads an older version
        # but a run the one that it began with; files are removed by maintenance, which does not ask the log.
        "delta.logRetentionDuration": "interval 1 hours",
        "delta.deletedFileRetentionDuration": "interval 1 hours",
        **_SPECIAL.get(name, {}),
    }
    for name in TABLES
}

# Each append leaves a file, and a read opens every one: 2.4 s of processor time an update after 60 of them, 1.4 s when
# these are gathered. Files above the size are left alone, so that what is written again stays small.
_GATHERED_EVERY = 16  # commits
_SMALL_FILE_BYTES = 2 * 1024 * 1024
# Of a table in ranges of its keys only the small appends of updates: a gathered file has the keys of all its parts.
_SMALL_RANGE_BYTES = 512 * 1024
# A merge leaves a file for each of the engine's threads in every part that it touches.
_PARTS_FILES = 8
# Rows that may lie in no order before a table is written in that of its keys.
_UNORDERED_ROWS = 16_384
_ORDERED = "lockstep.orderedRows"  # a table's property: how many rows it had then
_ORDERED_BYTES = 64 * 1024 * 1024  # of files, read at a time for that
# Rows of few keys are read a row group at a time.
_GROUP_ROWS: dict[str, int] = {
    "documents": 2_048,
    "elements": 128,
    "chunks": 1_024,
    "embeddings": 1_024,
    "term_statistics": 4,
}


class Lake(LakeReader):
    """The tables under one folder or object-store prefix, to read and to write.

    Everything that a table needs on the disk is decided here: in which order and parts its rows lie, and when small
    files become larger ones.
    """

    def append(self, name: str, rows: pa.Table, *, run_id: str) -> int:
        """Append rows in one commit and return the table's new version; no rows, no commit.

        Raises:
            LakeError: the rows' schema is not the table's, or the commit failed; nothing was added.
        """
        if rows.num_rows == 0:
            return self.version(name)
        rows = self._ordered(name, self._checked(name, rows))
        self._write(name, self._writable(name, run_id) or self._create(name), rows, mode="append", run_id=run_id)
        return self._gathered(name, run_id)

    def append_parts(self, name: str, parts: Iterable[pa.Table], *, rows: int, run_id: str) -> int:
        """Append rows in one commit, a part at a time, so that memory does not grow with them.

        Args:
            name: the table.
            parts: the rows; taken one after the other, in another thread.
            rows: about how many there are.
            run_id: recorded with the commit.

        Raises:
            LakeError: as for `append`; what taking a part raises is raised. Nothing was added.
        """
        found = (self._checked(name, part) for part in parts if part.num_rows)
        first = next(found, None)
        if first is None:
            return self.version(name)
        digits = self._digits(name)
        digits = layout.digits_for(rows) if digits is None else digits
        table = self._writable(name, run_id) or self._create(name)

        def batches() -> Iterator[pa.RecordBatch]:
            for part in chain([first], found):
                yield from self._ordered(name, part, digits).to_batches()

        with _drawn(_on_disk(name), batches()) as reader:
            self._write(name, table, reader, mode="append", run_id=run_id)
        return self._gathered(name, run_id)

    def merge_parts(self, name: str, parts: Iterable[pa.Table], *, key: str, rows: int, run_id: str) -> int:
        """Like `merge`, of rows that come in parts: into a table that was never written, one part is held at a time."""
        if self._open(name) is None:
            return self.append_parts(name, parts, rows=rows, run_id=run_id)
        return self.merge(name, pa.concat_tables([TABLES[name].empty_table(), *parts]), key=key, run_id=run_id)

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
        same = f"target.{key} = source.{key}"
        if name in layout.BY_DIGITS:
            table = self._divide(name, table, self.count(name) + len(rows), run_id)
            rows = self._ordered(name, rows)
            same = f"{layout.within(rows, column=f'target.{layout.COLUMN}')} AND {same}"

        def run() -> None:
            (
                table.merge(
                    rows,
                    same,
                    source_alias="source",
                    target_alias="target",
                    commit_properties=_commit(run_id),
                )
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .execute()
            )

        self._in_words(name, run)
        return self._gather_parts(name, rows, run_id) if name in layout.BY_DIGITS else self.version(name)

    def replace(self, name: str, rows: pa.Table, *, key: str, run_id: str) -> int:
        """What `merge` does, by writing whole parts of the table in one commit: a quarter of the time.

        Only for a table in parts by a number that a key never changes, without a change feed, that is written under the
        writer lock: rows that another process adds at the same time could stay beside their replacement.

        Raises:
            LakeError: the rows' schema is not the table's, or the commit failed; nothing was changed.
        """
        if rows.num_rows == 0:
            return self.version(name)
        rows = self._checked(name, rows)
        number = layout.BY_NUMBER[name]
        table = self._writable(name, run_id) or self._create(name)
        rows = self._ordered(name, rows)
        others = pc.invert(pc.field(key).isin(rows[key].combine_chunks()))
        options = {"schema_mode": "overwrite"}  # of an earlier version of Lockstep: written anew, whole
        if layout.by_number(self._parts(name)):
            numbers = layout.numbers_of(rows)
            others &= reduce(or_, ((pc.field(number) >= low) & (pc.field(number) <= high) for low, high in numbers))
            options = {"predicate": layout.within(rows)}
        beside = self._ordered(name, self.read(name, where=others))
        self._write(name, table, pa.concat_tables([beside, rows]), mode="overwrite", run_id=run_id, **options)
        return self.version(name)

    def rewrite(self, name: str, *, keep: Keep | None = None, run_id: str) -> int:
        """Write a table anew with the rows that are to be kept, in one commit and few large files.

        A table that is looked up by key is written in the order of its keys, a portion of them at a time. A table in
        parts is left as it is: merges and replacements gather it, and to a change feed every row would have gone and
        come again.

        Returns:
            How many rows went.

        Raises:
            LakeError: it could not be written; the table is as it was.
        """
        table = self._writable(name, run_id)
        if table is None or name in layout.IN_PARTS:
            return 0
        before, after = self.count(name), 0
        batches = self._in_order(name) if name in KEYS else self.scan(name)

        def kept() -> Iterator[pa.RecordBatch]:
            nonlocal after
            for batch in batches:
                rows = batch if keep is None else batch.filter(keep(batch))
                after += rows.num_rows
                yield rows

        with _drawn(TABLES[name], kept()) as reader:
            self._write(name, table, reader, mode="overwrite", run_id=run_id)
        if name in KEYS:
            self._tell_ordered(name, after, run_id)
        return before - after

    def order(self, name: str, *, run_id: str) -> bool:
        """Write a table in the order of its keys, if most of its rows were appended since that was done last.

        Returns:
            Whether it was written.
        """
        table, rows = self._open(name), self.count(name)
        if table is None or name not in KEYS or name in layout.IN_PARTS:
            return False
        ordered = int(table.metadata().configuration.get(_ORDERED, "0"))
        if rows <= 2 * ordered + _UNORDERED_ROWS:
            return False
        self.rewrite(name, run_id=run_id)
        return True

    def _tell_ordered(self, name: str, rows: int, run_id: str) -> None:
        table = self._open(name)
        if table is not None and rows > _UNORDERED_ROWS:
            told = {_ORDERED: str(rows)}
            self._in_words(
                name,
                lambda: table.alter.set_table_properties(
                    told, raise_if_not_exists=False, commit_properties=_commit(run_id)
                ),
            )

    def _in_order(self, name: str) -> Iterator[pa.RecordBatch]:
        """Every row in the order of its key; a portion of the keys is held at a time."""
        rows, size = max(1, self.count(name)), self.size_bytes(name)
        each = max(1_024, min(PORTION_ROWS, rows * _ORDERED_BYTES // max(1, size)))
        for portion in portions(rows, rows_each=each):
            yield from self._ordered(name, self.lookup(name, portion)).to_batches(max_chunksize=PORTION_ROWS)

    def compact(self, name: str, *, run_id: str) -> None:
        """Merge small files of a table into larger ones, in one commit that changes no row and no change feed."""
        table = self._writable(name, run_id)
        if table is not None:
            self._in_words(name, lambda: table.optimize.compact(commit_properties=_commit(run_id)))

    # --- internals ---

    def _gathered(self, name: str, run_id: str) -> int:
        """The version after an append; now and then its small files become one."""
        version = self.version(name)
        return version if name in MERGED or version % _GATHERED_EVERY else self._gather(name, run_id)

    def _gather(self, name: str, run_id: str) -> int:
        """Make one file of the small ones that appends left; rows stay."""
        table = self._open(name)
        small = _SMALL_RANGE_BYTES if name in KEYS else _SMALL_FILE_BYTES
        if table is not None:
            # The rows are there already: what another writer prevents now is done some appends later.
            with contextlib.suppress(DeltaError):
                table.optimize.compact(
                    target_size=small, writer_properties=_written(name), commit_properties=_commit(run_id)
                )
        return self.version(name)

    def _gather_parts(self, name: str, rows: pa.Table, run_id: str) -> int:
        """Make one file of the many that merges left in a part; only in the parts that were touched now."""
        table = self._open(name)
        assert table is not None
        counts = Counter(self._parts(name))
        crowded = sorted(part for part in set(rows[layout.COLUMN].to_pylist()) if counts[part] > _PARTS_FILES)
        if crowded:
            with contextlib.suppress(DeltaError):
                table.optimize.compact(
                    partition_filters=[(layout.COLUMN, "in", crowded)],
                    writer_properties=_written(name),
                    commit_properties=_commit(run_id),
                )
        return self.version(name)

    def _divide(self, name: str, table: DeltaTable, rows: int, run_id: str) -> DeltaTable:
        """The table in files that are small enough for so many rows; it is written anew where they are not."""
        if table.metadata().partition_columns != [layout.COLUMN]:
            raise LakeError(
                f"table {name!r} under {self._root} is laid out as an earlier version of Lockstep did it, and one "
                f"partition column {layout.COLUMN!r} is expected; build into a new LOCKSTEP_HOME with `lockstep update`"
            )
        if (self._digits(name) or 0) >= layout.digits_for(rows):
            return table
        digits, key = layout.digits_for(rows), layout.BY_DIGITS[name]
        everything = layout.with_part(self.read(name), key, digits)
        self._write(name, table, everything, mode="overwrite", run_id=run_id)
        opened = self._open(name)
        assert opened is not None
        return opened

    def _digits(self, name: str) -> int | None:
        """By how many digits of their keys the table's files are divided; None while it has none."""
        return None if self._open(name) is None else layout.digits_of(self._parts(name))

    def _parts(self, name: str) -> list[str | None]:
        """Of each of a table's files the part that it belongs to; None for one that has none."""
        facts, column = self._tables.facts(self.uri(name)), f"partition.{layout.COLUMN}"
        return facts[column].to_pylist() if column in facts.schema.names else [None] * len(facts)

    def _ordered(self, name: str, rows: pa.Table, digits: int | None = None) -> pa.Table:
        """The rows as they are written: in the order of their keys, in parts (`digits`) where the table has them."""
        if name in layout.BY_DIGITS:
            digits = self._digits(name) if digits is None else digits
            if digits is None:
                digits = layout.digits_for(len(rows))
            return layout.with_part(rows, layout.BY_DIGITS[name], digits)
        if name in layout.BY_NUMBER:
            return layout.with_part_of_number(rows, layout.BY_NUMBER[name])
        if name not in KEYS:
            return rows
        order = [column for column in (KEYS[name], "recipe_fp", "ordinal") if column in rows.schema.names]
        return rows.take(pc.sort_indices(rows.select(order), sort_keys=[(column, "ascending") for column in order]))

    def _write(
        self,
        name: str,
        table: DeltaTable,
        rows: pa.Table | pa.RecordBatchReader,
        *,
        mode: Literal["append", "overwrite"],
        run_id: str,
        **options: Any,
    ) -> None:
        options |= {"mode": mode, "writer_properties": _written(name)}
        if name in layout.IN_PARTS:
            options["partition_by"] = [layout.COLUMN]
        self._in_words(name, lambda: write_deltalake(table, rows, commit_properties=_commit(run_id), **options))

    def _create(self, name: str) -> DeltaTable:
        """An empty table, committed before its first rows: data without a log is then damage, and no killed write."""
        return self._in_words(
            name,
            lambda: DeltaTable.create(
                self.uri(name),
                _on_disk(name),
                partition_by=[layout.COLUMN] if name in layout.IN_PARTS else None,
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

    def _checked(self, name: str, rows: pa.Table) -> pa.Table:
        schema = TABLES[name]
        if set(rows.schema.names) != set(schema.names):
            difference = sorted(set(rows.schema.names) ^ set(schema.names))
            raise LakeError(f"writing table {name!r}: the columns {difference} do not agree with its schema")
        try:
            return rows.select(schema.names).cast(schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise LakeError(f"writing table {name!r}: the rows do not fit its schema: {error}") from error


@contextlib.contextmanager
def _drawn(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatchReader]:
    """A reader of batches that are made in a thread of their own, and what making one raises.

    The writer asks from a thread of delta-rs' own, in which delta-rs must not be called; and of an error that it meets
    there it keeps the words alone.
    """
    failed: list[BaseException] = []

    def drawn() -> Iterator[pa.RecordBatch]:
        try:
            while (batch := makers.submit(next, batches, None).result()) is not None:
                yield batch
        except BaseException as error:
            failed.append(error)
            raise

    with ThreadPoolExecutor(1, "write") as makers:
        try:
            yield pa.RecordBatchReader.from_batches(schema, drawn())
        except Exception:
            if failed:
                raise failed[0] from None
            raise


def _on_disk(name: str) -> pa.Schema:
    schema = TABLES[name]
    return schema.append(pa.field(layout.COLUMN, pa.string())) if name in layout.IN_PARTS else schema


def _written(name: str) -> WriterProperties:
    return WriterProperties(max_row_group_size=_GROUP_ROWS.get(name))


def _commit(run_id: str) -> CommitProperties:
    return CommitProperties(custom_metadata={"lockstep.run_id": run_id})
