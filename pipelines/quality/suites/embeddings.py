"""What is expected of vectors."""

from __future__ import annotations

import pyarrow as pa

from pipelines.lake.tables import Lake
from pipelines.quality.expectations import Between, Expectation, Matches, OneOf, Unique
from pipelines.quality.measures import HEX_32, HEX_64, vector_columns
from pipelines.quality.suite import Limits, Suite, with_copies

_KEYS = ("text_hash", "model_fp")
_NORM_TOLERANCE = 1e-3  # float32 keeps 1e-6; a vector that went through bfloat16 would be 4e-3 off


def _measure(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    return {**{name: batch.column(name) for name in _KEYS}, **vector_columns(batch.column("vector"))}


def _relate(lake: Lake, rows: pa.Table, whole: bool) -> pa.Table:
    return with_copies(lake, "embeddings", rows, whole, _KEYS)


def _expectations(limits: Limits) -> tuple[Expectation, ...]:
    today = None if limits.model_fp is None else ("model_fp", (limits.model_fp,))
    found: list[Expectation] = [
        Unique(name="key_unique", column="copies", key=_KEYS),
        Matches(name="text_hash_format", column="text_hash", pattern=HEX_64),
        Matches(name="model_fp_format", column="model_fp", pattern=HEX_32),
        Between(name="vector_not_empty", column="dimension", minimum=1),
        OneOf(name="vector_finite", column="finite", values=(True,)),
    ]
    if limits.dimension is not None:
        length = limits.dimension
        found.append(Between(name="dimension_of_model", column="dimension", minimum=length, maximum=length, when=today))
    if limits.unit_length:
        low, high = 1 - _NORM_TOLERANCE, 1 + _NORM_TOLERANCE
        found.append(Between(name="unit_length", column="norm", minimum=low, maximum=high))
    return tuple(found)


EMBEDDINGS_SUITE = Suite(
    table="embeddings",
    keys=_KEYS,
    columns=(*_KEYS, "vector"),
    measure=_measure,
    relate=_relate,
    expectations=_expectations,
)
