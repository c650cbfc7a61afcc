"""The one distributed operation: find what is missing by key, make it, append it.

Parsing, chunking and encoding all run through here. A run that dies anywhere is finished by the next one, and a
second run finds nothing missing. What a stage does with a batch is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.memory import give_back
from pipelines.lake.portions import KEYS, PORTION_ROWS, portions
from pipelines.lake.schemas import TABLES
from pipelines.lake.tables import Lake

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Progress = Callable[[int, int], None]

ERROR_COLUMN = "error"

_PORTION_BYTES = 64 * 1024 * 1024  # held at most before a commit


@dataclass(frozen=True, slots=True)
class Derived:
    """What one derivation did: `rows` appended for the missing keys, and the rows that the stage rejected."""

    rows: int
    commits: int
    rejected: pa.Table  # key columns and `error`


def missing(lake: Lake, target: str, wanted: pa.Table, keys: Sequence[str]) -> pa.Table:
    """The rows of `wanted` whose key the target does not have yet, first of each key.

    A few are looked up, and stay in their order. Many are gone through in the order of the key by which the target lies
    on the disk, a portion of it at a time, so that memory does not grow with the target.

    Args:
        lake: the tables.
        target: the derived table.
        wanted: key columns, and any small columns that the caller wants to keep.
        keys: names of the key columns, present in both.
    """
    if wanted.num_rows == 0:
        return wanted
    unique = _first_of_each(wanted, keys)
    key = KEYS[target]
    if len(unique) <= PORTION_ROWS:
        return _lacking(unique, lake.lookup(target, unique[key], list(keys)), keys)
    unique = unique.sort_by(key)
    parts = []
    for portion in portions(len(unique)):
        part = unique.filter(portion.among(unique[key]))
        parts.append(_lacking(part, lake.lookup(target, portion, list(keys)), keys))
    return pa.concat_tables(parts)


def _lacking(unique: pa.Table, present: pa.Table, keys: Sequence[str]) -> pa.Table:
    if present.num_rows == 0 or unique.num_rows == 0:
        return unique
    joined = unique.append_column("__row", pa.array(range(unique.num_rows), pa.int64())).join(
        present, keys=list(keys), join_type="left anti"
    )
    return unique.take(_ascending(joined["__row"]))


def derive(
    lake: Lake,
    target: str,
    batches: Iterable[pa.RecordBatch],
    stage: Stage,
    *,
    total: int,
    portion_rows: int,
    portion_seconds: float = 0.0,
    run_id: str,
    progress: Progress | None = None,
) -> Derived:
    """Map a stage over input batches and append what it yields, committed a portion at a time.

    Args:
        lake: the tables.
        target: the table to append to.
        batches: the inputs whose keys are missing in the target; read lazily.
        stage: maps an iterator of batches to an iterator of batches with the target's columns. All rows of one key
            lie in one batch: a commit ends with a batch, and a key with any row counts as made. A batch may have an
            extra nullable column `error`, whose non-null rows are rejected instead of appended.
        total: input rows in all, for the progress.
        portion_rows: rows a commit; what a kill can cost.
        portion_seconds: that a commit is worth in any case: what is quickly made is quickly made again.
        run_id: recorded in each commit.
        progress: called with (input rows handed to the stage, total).
    """
    schema = TABLES[target]
    seen = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal seen
        for batch in batches:
            yield batch
            seen += batch.num_rows
            if progress:
                progress(seen, total)

    waiting: list[pa.RecordBatch] = []
    waiting_rows = rows = commits = 0
    committed = time.monotonic()
    rejected: list[pa.Table] = []

    def commit() -> None:
        nonlocal waiting, waiting_rows, rows, commits, committed
        if waiting_rows:
            lake.append(target, pa.Table.from_batches(waiting, schema=schema), run_id=run_id)
            rows += waiting_rows
            commits += 1
            waiting, waiting_rows = [], 0
            give_back()  # else it keeps the largest portion there was, step after step
        committed = time.monotonic()

    for batch in stage(counted()):
        good, bad = _split(batch, schema)
        if bad.num_rows:
            rejected.append(bad)
        for part in good.to_batches():
            waiting.append(part)
            waiting_rows += part.num_rows
        if waiting_rows >= portion_rows and (
            time.monotonic() - committed >= portion_seconds or sum(part.nbytes for part in waiting) >= _PORTION_BYTES
        ):
            commit()
    commit()
    if rejected:
        return Derived(rows, commits, pa.concat_tables(rejected, promote_options="default"))
    return Derived(rows, commits, pa.table({ERROR_COLUMN: pa.array([], pa.string())}))


def _split(batch: pa.RecordBatch, schema: pa.Schema) -> tuple[pa.Table, pa.Table]:
    table = pa.Table.from_batches([batch])
    if ERROR_COLUMN not in table.schema.names or ERROR_COLUMN in schema.names:
        return table.select(schema.names).cast(schema), table.slice(0, 0)
    failed = table[ERROR_COLUMN].is_valid()
    good = table.filter(pc.invert(failed)).select(schema.names).cast(schema)
    bad = table.filter(failed)
    return good, bad.select([n for n in bad.schema.names if n == ERROR_COLUMN or not pa.types.is_list(bad[n].type)])


def _first_of_each(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    numbered = table.select(list(keys)).append_column("__row", pa.array(range(table.num_rows), pa.int64()))
    first = numbered.group_by(list(keys)).aggregate([("__row", "min")])
    return table.take(_ascending(first["__row_min"]))


def _ascending(rows: pa.ChunkedArray) -> pa.ChunkedArray:
    return rows.take(pc.array_sort_indices(rows))
