"""What is expected of parse results."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.tables import Lake
from pipelines.quality.expectations import Between, Expectation, Matches, NotNull, OneOf, Unique
from pipelines.quality.measures import HEX_32, HEX_64, count_where, json_kinds, lengths
from pipelines.quality.suite import Limits, Suite, with_copies

_KEYS = ("content_hash", "parser_fp")
_KEPT = (*_KEYS, "status", "error_class", "error", "pages", "characters", "seconds")


def _measure(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    from pipelines.parsing.elements import KINDS  # brings the whole parser along: 0.2 s

    lists = batch.column("elements")
    items = lists.flatten()
    known = pc.is_in(items.field("kind"), value_set=pa.array(KINDS, pa.string()))
    blank = pc.invert(pc.fill_null(pc.match_substring_regex(items.field("text"), r"\S"), False))
    return {
        **{name: batch.column(name) for name in _KEPT},
        "metadata_json": json_kinds(batch.column("metadata")),
        "elements": pa.array(lengths(lists)),
        "unknown_kinds": count_where(lists, pc.invert(known)),
        "blank_elements": count_where(lists, blank),
    }


def _relate(lake: Lake, rows: pa.Table, whole: bool) -> pa.Table:
    return with_copies(lake, "elements", rows, whole, _KEYS)


def _expectations(_: Limits) -> tuple[Expectation, ...]:
    parsed, failed, without = ("status", ("parsed",)), ("status", ("failed",)), ("status", ("empty", "failed"))
    return (
        Unique(name="key_unique", column="copies", key=_KEYS),
        Matches(name="content_hash_format", column="content_hash", pattern=HEX_64),
        Matches(name="parser_fp_format", column="parser_fp", pattern=HEX_32),
        OneOf(name="status_known", column="status", values=("parsed", "empty", "failed")),
        Between(name="parsed_has_elements", column="elements", minimum=1, when=parsed),
        Between(name="parsed_has_characters", column="characters", minimum=1, when=parsed),
        Between(name="others_have_no_elements", column="elements", minimum=0, maximum=0, when=without),
        NotNull(name="failure_has_class", column="error_class", when=failed),
        NotNull(name="failure_has_reason", column="error", when=failed),
        OneOf(name="metadata_is_object", column="metadata_json", values=("object",)),
        Between(name="pages_not_negative", column="pages", minimum=0),
        Between(name="seconds_not_negative", column="seconds", minimum=0),
        Between(name="kinds_known", column="unknown_kinds", minimum=0, maximum=0),
        Between(name="no_blank_element", column="blank_elements", minimum=0, maximum=0),
    )


ELEMENTS_SUITE = Suite(
    table="elements",
    keys=_KEYS,
    columns=(*_KEPT, "metadata", "elements"),
    measure=_measure,
    relate=_relate,
    expectations=_expectations,
)
