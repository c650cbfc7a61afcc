"""What is expected of the manifest."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.identity import doc_id
from pipelines.lake.manifest import ACTIVE, DELETED, QUARANTINED
from pipelines.lake.tables import Lake
from pipelines.quality.expectations import Between, Expectation, Matches, OneOf, Unique
from pipelines.quality.measures import HEX_32, HEX_64, copies, json_kinds
from pipelines.quality.suite import Limits, Suite, with_copies

_KEPT = ("doc_id", "source", "uri", "content_hash", "version", "acl_id", "status", "size_bytes", "quarantined_hash")
_TEXTS = ("tenant", "classification", "run_id", "title", "media_type")
_CLOCK_HOURS = 24.0  # clocks and time zones of sources are wrong by hours; a day ahead is a fault


def _measure(batch: pa.RecordBatch) -> dict[str, pa.Array]:
    sources, uris = batch.column("source").to_pylist(), batch.column("uri").to_pylist()
    own = pa.array([doc_id(source, uri) for source, uri in zip(sources, uris, strict=True)], pa.string())
    ahead = pc.subtract(batch.column("modified_at"), batch.column("updated_at"))
    return {
        **{name: batch.column(name) for name in (*_KEPT, *_TEXTS)},
        "has_own_id": pc.equal(batch.column("doc_id"), own),
        "metadata_json": json_kinds(batch.column("metadata")),
        "has_deleted_at": batch.column("deleted_at").is_valid(),
        "has_quarantined_hash": batch.column("quarantined_hash").is_valid(),
        "modified_hours_ahead": pc.divide(pc.cast(ahead, pa.int64()), pa.scalar(3.6e9)),
    }


def _relate(lake: Lake, rows: pa.Table, whole: bool) -> pa.Table:
    known = lake.read("acl_sets", ["acl_id"])
    rows = with_copies(lake, "documents", rows, whole, ("doc_id",))
    return rows.append_column("acl_sets", copies(rows, ("acl_id",), known))


def _expectations(_: Limits) -> tuple[Expectation, ...]:
    active, gone, held = ("status", (ACTIVE,)), ("status", (DELETED,)), ("status", (QUARANTINED,))
    return (
        Unique(name="doc_id_unique", column="copies", key=("doc_id",)),
        Matches(name="doc_id_format", column="doc_id", pattern=HEX_32),
        OneOf(name="doc_id_is_of_source_and_uri", column="has_own_id", values=(True,)),
        OneOf(name="status_known", column="status", values=(ACTIVE, DELETED, QUARANTINED)),
        Matches(name="active_has_content", column="content_hash", pattern=HEX_64, when=active),
        Between(name="active_has_version", column="version", minimum=1, when=active),
        Between(name="version_not_negative", column="version", minimum=0),
        Between(name="acl_known", column="acl_sets", minimum=1),
        Between(name="size_not_negative", column="size_bytes", minimum=0),
        Matches(name="tenant_given", column="tenant", pattern=r"\S"),
        Matches(name="classification_given", column="classification", pattern=r"\S"),
        Matches(name="run_id_given", column="run_id", pattern=r"\S"),
        Matches(name="media_type_format", column="media_type", pattern=r"^[^/\s]+/[^/]+$"),
        OneOf(name="metadata_is_object", column="metadata_json", values=("object",)),
        OneOf(name="deleted_has_time", column="has_deleted_at", values=(True,), when=gone),
        OneOf(name="active_has_no_deletion", column="has_deleted_at", values=(False,), when=active),
        OneOf(name="quarantined_has_hash", column="has_quarantined_hash", values=(True,), when=held),
        Matches(name="quarantined_hash_format", column="quarantined_hash", pattern=HEX_64),
        Matches(name="title_given", column="title", pattern=r"\S", severity="warn"),
        Between(name="modified_not_in_future", column="modified_hours_ahead", maximum=_CLOCK_HOURS, severity="warn"),
    )


DOCUMENTS_SUITE = Suite(
    table="documents",
    keys=("doc_id", "source", "uri"),
    columns=(*_KEPT, *_TEXTS, "metadata", "modified_at", "updated_at", "deleted_at"),
    measure=_measure,
    relate=_relate,
    expectations=_expectations,
)
