"""What is expected of chunks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.identity import text_hash
from pipelines.lake.tables import Lake
from pipelines.quality.expectations import Below, Between, Expectation, Matches, OneOf, Unique
from pipelines.quality.measures import HEX_32, HEX_64, ascending, copies, count_where, lengths
from pipelines.quality.suite import Limits, Suite, same_first_key

_KEYS = ("content_hash", "recipe_fp", "ordinal")
_KEPT = (*_KEYS, "chunk_count", "text_hash", "body_start", "kind", "section", "char_start", "char_end", "tokens")
_LARGEST_TERM = 2**32 - 2  # the index refuses a sparse dimension above


def _measure(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    texts = ["" if text is None else text for text in batch.column("text").to_pylist()]
    own = pa.array([text_hash(text) for text in texts], pa.string())
    starts = [start or 0 for start in batch.column("body_start").to_pylist()]
    bodies = [bool(text[start:].strip()) for text, start in zip(texts, starts, strict=True)]
    terms, weights = batch.column("terms"), batch.column("weights")
    values = np.asarray(weights.flatten(), dtype=np.float64)
    return {
        **{name: batch.column(name) for name in _KEPT},
        "text_length": pc.utf8_length(batch.column("text")),
        "has_own_text_hash": pc.equal(batch.column("text_hash"), own),
        "has_body": pa.array(bodies, pa.bool_()),
        "pages_ascend": ascending(batch.column("pages"), minimum=0),
        "terms_ascend": ascending(terms, minimum=0, maximum=_LARGEST_TERM),
        "weights_missing": pa.array(lengths(terms) - lengths(weights)),
        "bad_weights": count_where(weights, ~(np.isfinite(values) & (values > 0))),
    }


def _relate(lake: Lake, rows: pa.Table, whole: bool) -> pa.Table:
    among = rows if whole else same_first_key(lake, "chunks", rows, _KEYS)
    present = copies(rows, _KEYS[:2], among)
    return rows.append_column("copies", copies(rows, _KEYS, among)).append_column(
        "chunks_missing", pc.subtract(pc.cast(rows["chunk_count"], pa.int64()), present)
    )


def _expectations(limits: Limits) -> tuple[Expectation, ...]:
    today = None if limits.recipe_fps is None else ("recipe_fp", tuple(sorted(limits.recipe_fps)))
    return (
        Unique(name="key_unique", column="copies", key=_KEYS),
        Matches(name="content_hash_format", column="content_hash", pattern=HEX_64),
        Matches(name="recipe_fp_format", column="recipe_fp", pattern=HEX_32),
        Between(name="ordinal_not_negative", column="ordinal", minimum=0),
        Below(name="ordinal_below_count", column="ordinal", other="chunk_count"),
        Between(name="content_complete", column="chunks_missing", minimum=0, maximum=0),
        Between(name="text_not_empty", column="text_length", minimum=1),
        OneOf(name="body_not_blank", column="has_body", values=(True,)),
        Matches(name="text_hash_format", column="text_hash", pattern=HEX_64),
        OneOf(name="text_hash_is_of_text", column="has_own_text_hash", values=(True,)),
        Between(name="body_start_not_negative", column="body_start", minimum=0),
        Below(name="body_inside_text", column="body_start", other="text_length"),
        Between(name="char_start_not_negative", column="char_start", minimum=0),
        Below(name="span_not_empty", column="char_start", other="char_end"),
        Between(name="section_not_negative", column="section", minimum=0),
        OneOf(name="kind_known", column="kind", values=("text", "table", "code", "list")),
        Between(name="tokens_positive", column="tokens", minimum=1),
        *(
            [Between(name="tokens_within_encoder", column="tokens", maximum=limits.max_tokens, when=today)]
            if limits.max_tokens is not None
            else []
        ),
        OneOf(name="pages_ascend", column="pages_ascend", values=(True,)),
        OneOf(name="terms_ascend", column="terms_ascend", values=(True,)),
        Between(name="a_weight_for_each_term", column="weights_missing", minimum=0, maximum=0),
        Between(name="weights_positive", column="bad_weights", minimum=0, maximum=0),
    )


CHUNKS_SUITE = Suite(
    table="chunks",
    keys=_KEYS,
    columns=(*_KEPT, "text", "pages", "terms", "weights"),
    measure=_measure,
    relate=_relate,
    expectations=_expectations,
)
