"""What is expected of access sets: every filter of every search relies on them."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import AccessError
from pipelines.lake.tables import Lake
from pipelines.principals import parse_principal, parse_tenant
from pipelines.quality.expectations import Between, Expectation, OneOf, Unique
from pipelines.quality.measures import count_where
from pipelines.quality.suite import Limits, Suite, with_copies


def _as_stored(check: Callable[[str], str], text: str | None) -> bool:
    """Whether this is a name in the form in which it is stored and compared."""
    try:
        return text is not None and check(text) == text
    except AccessError:
        return False


def _measure(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    lists = batch.column("principals")
    proper = pa.array([_as_stored(parse_principal, one) for one in lists.flatten().to_pylist()], pa.bool_())
    ordered = [found is not None and found == sorted(set(found)) for found in lists.to_pylist()]
    return {
        "acl_id": batch.column("acl_id"),
        "malformed_principals": count_where(lists, pc.invert(proper)),
        "principals_ordered": pa.array(ordered, pa.bool_()),
        "tenant_as_stored": pa.array(
            [_as_stored(parse_tenant, one) for one in batch.column("tenant").to_pylist()], pa.bool_()
        ),
    }


def _relate(lake: Lake, rows: pa.Table, whole: bool) -> pa.Table:
    return with_copies(lake, "acl_sets", rows, whole, ("acl_id",))


def _expectations(_: Limits) -> tuple[Expectation, ...]:
    return (
        Unique(name="acl_id_unique", column="copies", key=("acl_id",)),
        Between(name="acl_id_positive", column="acl_id", minimum=1),
        Between(name="principals_well_formed", column="malformed_principals", minimum=0, maximum=0),
        OneOf(name="principals_sorted_without_duplicates", column="principals_ordered", values=(True,)),
        OneOf(name="tenant_well_formed", column="tenant_as_stored", values=(True,)),
    )


ACL_SETS_SUITE = Suite(
    table="acl_sets",
    keys=("acl_id",),
    columns=("acl_id", "tenant", "principals"),
    measure=_measure,
    relate=_relate,
    expectations=_expectations,
)
