"""What is expected of the record of snapshots."""

from __future__ import annotations

import json
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.snapshots import Kind, Status
from pipelines.lake.tables import Lake
from pipelines.quality.expectations import Between, Expectation, Matches, OneOf, Unique
from pipelines.quality.measures import HEX_32, HEX_64, copies, json_kinds
from pipelines.quality.suite import Limits, Suite

_COUNTS = ("manifest_version", "documents", "rows", "upserted", "deleted")
_TEXTS = ("snapshot_id", "index_name", "collection", "kind", "status", "digest", "recipe_fp", "model_fp", "run_id")


def _measure(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    gates = [_gates(text) for text in batch.column("gates").to_pylist()]
    lasted = pc.subtract(batch.column("updated_at"), batch.column("created_at"))
    return {
        **{name: batch.column(name) for name in (*_TEXTS, "sequence", "parent", *_COUNTS)},
        "model_json": json_kinds(batch.column("model")),
        "gates_json": json_kinds(batch.column("gates")),
        "gates": pa.array([len(found) for found in gates], pa.int64()),
        "gates_failed": pa.array([found.count(False) for found in gates], pa.int64()),
        "seconds_lasted": pc.divide(pc.cast(lasted, pa.int64()), pa.scalar(1e6)),
    }


def _gates(text: str) -> list[bool]:
    """Whether each recorded gate passed; one that is not readable did not."""
    try:
        recorded = json.loads(text)
    except ValueError:
        return [False]
    if not isinstance(recorded, dict):
        return [False]
    return [isinstance(gate, dict) and gate.get("passed") is True for gate in recorded.values()]


def _relate(lake: Lake, rows: pa.Table, whole: bool) -> pa.Table:
    """All snapshots are looked at, however few changed: there is one row an update, and no list among the columns."""
    others = ["snapshot_id", "index_name", "sequence", "status"]
    table = rows if whole else lake.read("index_snapshots", others)
    live = table.filter(pc.equal(table["status"], "live"))
    parents = pa.table({"parent": table["snapshot_id"]})
    known = pc.greater(copies(rows, ("parent",), parents), 0)
    return (
        rows.append_column("copies", copies(rows, ("snapshot_id",), table))
        .append_column("copies_of_sequence", copies(rows, ("index_name", "sequence"), table))
        .append_column("live_of_index", copies(rows, ("index_name",), live))
        .append_column("parent_known", pc.or_(known, rows["parent"].is_null()))
    )


def _expectations(_: Limits) -> tuple[Expectation, ...]:
    live = ("status", ("live",))
    return (
        Unique(name="snapshot_id_unique", column="copies", key=("snapshot_id",)),
        Unique(name="sequence_unique", column="copies_of_sequence", key=("index_name", "sequence")),
        Between(name="sequence_positive", column="sequence", minimum=1),
        Between(name="one_live_snapshot", column="live_of_index", maximum=1, when=live),
        OneOf(name="status_known", column="status", values=get_args(Status)),
        OneOf(name="kind_known", column="kind", values=get_args(Kind)),
        Matches(name="digest_format", column="digest", pattern=HEX_64),
        Matches(name="recipe_fp_format", column="recipe_fp", pattern=HEX_32),
        Matches(name="model_fp_format", column="model_fp", pattern=HEX_32),
        Matches(name="collection_given", column="collection", pattern=r"\S"),
        *(Between(name=f"{name}_not_negative", column=name, minimum=0) for name in _COUNTS),
        OneOf(name="model_is_object", column="model_json", values=("object",)),
        OneOf(name="gates_are_object", column="gates_json", values=("object",)),
        Between(name="live_passed_gates", column="gates", minimum=1, when=live),
        Between(name="live_failed_no_gate", column="gates_failed", maximum=0, when=live),
        OneOf(name="parent_known", column="parent_known", values=(True,)),
        Between(name="updated_after_created", column="seconds_lasted", minimum=0),
    )


INDEX_SNAPSHOTS_SUITE = Suite(
    table="index_snapshots",
    keys=("snapshot_id", "index_name", "sequence"),
    columns=(*_TEXTS, "sequence", "parent", *_COUNTS, "model", "gates", "created_at", "updated_at"),
    measure=_measure,
    relate=_relate,
    expectations=_expectations,
)
