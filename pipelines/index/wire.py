"""From a table of index rows to what the client sends, checked as a whole first, and back from what it receives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import IndexMismatch
from pipelines.index.rows import INDEX_ROW, MAX_STRING_BYTES, SCALAR_ROW, STORED_SCALARS

_PORTION_BYTES = 8 * 1024 * 1024  # a server takes 64 MB a message
_PORTION_ROWS = 2_000
_MAX_TERM = 2**32 - 2  # the sparse format reserves the largest 32-bit dimension
NO_TERM = _MAX_TERM  # stands in a row without any term, whose vector may not be empty; never asked for
_STRING_FIELDS = tuple(name for name in STORED_SCALARS if pa.types.is_string(INDEX_ROW.field(name).type))


def check_rows(collection: str, rows: pa.Table) -> None:
    """Refuse what the index would refuse, truncate or score wrongly, before any row is written.

    Raises:
        IndexMismatch: names the first rows and fields.
    """
    if rows.schema.names != INDEX_ROW.names:
        raise IndexMismatch(
            f"writing rows to {collection!r}: expected the columns {INDEX_ROW.names}, found {rows.schema.names}"
        )
    nulls = {name: rows[name].null_count for name in INDEX_ROW.names}
    problems = [f"{count} rows without {name!r}" for name, count in nulls.items() if count]
    for name in _STRING_FIELDS:
        longest = pc.max(pc.binary_length(rows[name])).as_py() or 0
        if longest > MAX_STRING_BYTES:
            problems.append(f"{name!r} of {longest:,} bytes, the index takes {MAX_STRING_BYTES:,}")
    dimensions = pc.unique(pc.list_value_length(rows["dense"])).to_pylist()
    if len(dimensions) > 1:
        problems.append(f"vectors of different dimensions {sorted(map(str, dimensions))}")
    problems += [f"numbers in {name!r} that are not finite" for name in ("dense", "weights") if not _finite(rows[name])]
    lengths_agree = pc.equal(pc.list_value_length(rows["terms"]), pc.list_value_length(rows["weights"]))
    if not pc.all(lengths_agree, min_count=0).as_py():
        problems.append("rows whose terms and weights differ in number")
    terms = pc.min_max(pc.list_flatten(rows["terms"])).as_py()
    if terms["min"] is not None and not 0 <= terms["min"] <= terms["max"] <= _MAX_TERM:
        problems.append(f"terms outside 0..{_MAX_TERM}")
    if problems:
        raise IndexMismatch(
            f"writing {rows.num_rows} rows to {collection!r}: {'; '.join(problems)}; nothing was written. "
            "This is a fault of an earlier step: parser, chunker or encoder"
        )


def _finite(column: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.is_finite(pc.list_flatten(column)), min_count=0).as_py())


def wire_portions(rows: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """The rows as the client takes them, at most about 8 MB and 2,000 rows a portion; always at least one row."""
    if not rows.num_rows:
        return
    sizes = np.zeros(rows.num_rows, dtype=np.int64)
    for name in _STRING_FIELDS:
        sizes += pc.binary_length(rows[name]).to_numpy()
    sizes += 4 * pc.list_value_length(rows["dense"]).to_numpy() + 8 * pc.list_value_length(rows["terms"]).to_numpy()
    start, held = 0, 0
    for position, size in enumerate(sizes.tolist()):
        if position > start and (held + size > _PORTION_BYTES or position - start >= _PORTION_ROWS):
            yield _portion(rows.slice(start, position - start))
            start, held = position, 0
        held += size
    yield _portion(rows.slice(start))


def _portion(rows: pa.Table) -> list[dict[str, Any]]:
    scalars: list[dict[str, Any]] = rows.select(STORED_SCALARS).to_pylist()
    dense = rows["dense"].combine_chunks()
    vectors = dense.flatten().to_numpy().reshape(rows.num_rows, -1)
    for row, vector, terms, weights in zip(
        scalars, vectors, rows["terms"].to_pylist(), rows["weights"].to_pylist(), strict=True
    ):
        row["dense"] = vector
        row["sparse"] = {term: weight for term, weight in zip(terms, weights, strict=True) if weight} or {NO_TERM: 1.0}
    return scalars


def from_wire(found: Any) -> pa.Table:
    """The rows of a query for everything that is stored (schema `INDEX_ROW`), floats bit for bit.

    The client makes an object of every number when a row is looked at (12 s of 100,000 rows); what it has received is
    read instead.
    """
    scalars = pa.Table.from_pylist(list(list.__iter__(found)), schema=SCALAR_ROW)
    received = {field.field_name: field.vectors for field in found._lazy_field_data}  # as no public name has it
    if not scalars.num_rows:
        return INDEX_ROW.empty_table()
    numbers = np.fromiter(received["dense"].float_vector.data, dtype=np.float32)
    dense = pa.FixedSizeListArray.from_arrays(pa.array(numbers), received["dense"].dim).cast(pa.list_(pa.float32()))
    contents = list(received["sparse"].sparse_float_vector.contents)
    pairs = np.frombuffer(b"".join(contents), dtype=[("term", "<u4"), ("weight", "<f4")])
    starts = np.cumsum([0, *(len(one) // 8 for one in contents)])
    rows = np.repeat(np.arange(len(contents)), np.diff(starts))
    pairs, rows = pairs[kept := pairs["term"] != NO_TERM], rows[kept]
    pairs = pairs[np.lexsort((pairs["term"], rows))]
    offsets = pa.array(np.searchsorted(rows, np.arange(len(contents) + 1)), pa.int32())
    table = (
        scalars.append_column("dense", dense)
        .append_column("terms", pa.ListArray.from_arrays(offsets, pa.array(pairs["term"].astype(np.int64))))
        .append_column("weights", pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(pairs["weight"]))))
    )
    return table.select(INDEX_ROW.names).cast(INDEX_ROW)
