"""Numbers and words that stand for what cannot be expected on directly: lists, vectors, JSON, other rows.

Everything here is Arrow or numpy in, one Arrow value a row out; no vector or list ever reaches a data frame.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HEX_64 = r"^[0-9a-f]{64}$"
HEX_32 = r"^[0-9a-f]{32}$"


def lengths(lists: pa.Array) -> np.ndarray:
    """Items of each list, int64; a null list has none."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)


def count_where(lists: pa.Array, marked: np.ndarray | pa.Array) -> pa.Array:
    """How many items of each list are marked; `marked` has one boolean for each item of the flattened lists."""
    return pa.array(_sums(lists, np.asarray(marked, dtype=np.float64)).astype(np.int64))


def ascending(lists: pa.Array, *, minimum: int, maximum: int | None = None) -> pa.Array:
    """Whether the numbers of each list grow strictly and lie within the limits, both allowed."""
    values = np.asarray(lists.flatten(), dtype=np.float64)  # a null among them becomes NaN, which is in no range
    inside = values >= minimum
    if maximum is not None:
        inside &= values <= maximum
    rows = np.asarray(pc.list_parent_indices(lists))
    follows = np.ones(len(values), bool)
    follows[1:] = (rows[1:] != rows[:-1]) | (values[1:] > values[:-1])
    return pa.array(_sums(lists, ~(inside & follows)) == 0)


def vector_columns(vectors: pa.Array) -> dict[str, pa.Array]:
    """`dimension`, `finite` and `norm` (float64; null unless finite) of each vector."""
    values = np.asarray(vectors.flatten(), dtype=np.float64)
    finite = np.isfinite(values)
    all_finite = _sums(vectors, ~finite) == 0
    norms = np.sqrt(_sums(vectors, np.where(finite, values, 0.0) ** 2))
    return {
        "dimension": pa.array(lengths(vectors)),
        "finite": pa.array(all_finite),
        "norm": pa.array(norms, pa.float64(), mask=~all_finite),
    }


def json_kinds(texts: pa.Array) -> pa.Array:
    """What each text is as JSON: object, array, string, number, boolean, null, or invalid."""
    found: dict[str | None, str] = {"{}": "object"}
    for text in texts.unique().to_pylist():
        if text not in found:
            found[text] = _json_kind(text)
    return pa.array([found[text] for text in texts.to_pylist()], pa.string())


def copies(rows: pa.Table, keys: Sequence[str], among: pa.Table) -> pa.ChunkedArray:
    """Of each row, how many of the rows `among` have the same key; int64, in the order of `rows`."""
    numbered = rows.select(list(keys)).append_column("__row", pa.array(np.arange(rows.num_rows)))
    counted = among.select(list(keys)).group_by(list(keys)).aggregate([([], "count_all")])
    joined = numbered.join(counted, list(keys), join_type="left outer").sort_by("__row")
    return pc.fill_null(joined["count_all"], 0)


def _sums(lists: pa.Array, values: np.ndarray) -> np.ndarray:
    """Sum of `values`, one for each item of the flattened lists, by list; float64."""
    rows = np.asarray(pc.list_parent_indices(lists))
    sums: np.ndarray = np.bincount(rows, weights=values, minlength=len(lists))
    return sums


def _json_kind(text: str | None) -> str:
    try:
        value = json.loads(text) if text is not None else None
    except ValueError:
        return "invalid"
    if isinstance(value, bool):
        return "boolean"
    names = {dict: "object", list: "array", str: "string", int: "number", float: "number", type(None): "null"}
    return names[type(value)]
