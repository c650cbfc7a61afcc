"""What is expected of access sets: every filter of every search relies on them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.tables import Lake
from pipelines.quality.expectations import Between, Expectation, OneOf, Unique
from pipelines.quality.measures import count_where
from pipelines.quality.suite import Limits, Suite, with_copies

_PRINCIPAL = r"^(user|group|role):[^\s,]+$"


def _measure(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    lists = batch.column("principals")
    proper = pc.fill_null(pc.match_substring_regex(lists.flatten(), _PRINCIPAL), False)
    ordered = [found is not None and found == sorted(set(found)) for found in lists.to_pylist()]
    return {
        "acl_id": batch.column("acl_id"),
        "malformed_principals": count_where(lists, pc.invert(proper)),
        "principals_ordered": pa.array(ordered, pa.bool_()),
    }


def _relate(lake: Lake, rows: pa.Table, whole: bool) -> pa.Table:
    return with_copies(lake, "acl_sets", rows, whole, ("acl_id",))


def _expectations(_: Limits) -> tuple[Expectation, ...]:
    return (
        Unique(name="acl_id_unique", column="copies", key=("acl_id",)),
        Between(name="acl_id_positive", column="acl_id", minimum=1),
        Between(name="principals_well_formed", column="malformed_principals", minimum=0, maximum=0),
        OneOf(name="principals_sorted_without_duplicates", column="principals_ordered", values=(True,)),
    )


ACL_SETS_SUITE = Suite(
    table="acl_sets",
    keys=("acl_id",),
    columns=("acl_id", "principals"),
    measure=_measure,
    relate=_relate,
    expectations=_expectations,
)
