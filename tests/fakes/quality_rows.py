"""Small tables in which everything is as expected, and for each expectation a row that is not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from pipelines.identity import doc_id, text_hash
from pipelines.lake.schemas import TABLES
from pipelines.lake.tables import Lake
from pipelines.quality import Limits

Row = dict[str, Any]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(max_tokens=256, recipe_fps={"b" * 32}, dimension=2, model_fp="c" * 32)


def content(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def document(uri: str, /, **changes: Any) -> Row:
    row = {
        "doc_id": doc_id("s", uri),
        "source": "s",
        "uri": uri,
        "tenant": "t",
        "acl_id": 1,
        "classification": "internal",
        "media_type": "text/plain",
        "size_bytes": 1,
        "etag": None,
        "modified_at": NOW,
        "content_hash": content(uri),
        "version": 1,
        "title": uri,
        "metadata": "{}",
        "status": "active",
        "deleted_at": None,
        "retain_until": None,
        "quarantined_hash": None,
        "run_id": "r",
        "updated_at": NOW,
    }
    return row | changes


def acl_set(acl_id: int, *principals: str, tenant: str = "default") -> Row:
    return {"acl_id": acl_id, "tenant": tenant, "principals": list(principals), "created_at": NOW}


def parse_result(name: str, **changes: Any) -> Row:
    elements = [element("heading", "Rules", level=1), element("paragraph", "Be kind.")]
    row = {
        "content_hash": content(name),
        "parser_fp": "a" * 32,
        "status": "parsed",
        "error_class": None,
        "error": None,
        "transient": False,
        "title": name,
        "metadata": '{"author": "A. Person"}',
        "pages": None,
        "characters": 13,
        "seconds": 0.1,
        "elements": elements,
    }
    return row | changes


def element(kind: str, text: str, *, level: int | None = None) -> Row:
    return {"kind": kind, "text": text, "level": level, "page": None, "html": None, "language": None}


def chunk(name: str, ordinal: int, /, **changes: Any) -> Row:
    text = changes.pop("text", f"Rules\nRule {ordinal} of {name}.")
    row = {
        "content_hash": content(name),
        "recipe_fp": "b" * 32,
        "ordinal": ordinal,
        "chunk_count": 2,
        "text": text,
        "text_hash": text_hash(text),
        "body_start": 6,
        "kind": "text",
        "heading_path": ["Rules"],
        "section": 1,
        "char_start": 20 * ordinal,
        "char_end": 20 * ordinal + 10,
        "pages": [1, 2],
        "tokens": 12,
        "terms": [3, 5, 2**32 - 2],
        "weights": [0.5, 1.0, 0.25],
    }
    return row | changes


def embedding(name: str, **changes: Any) -> Row:
    return {"text_hash": content(name), "model_fp": "c" * 32, "vector": [0.6, 0.8]} | changes


def snapshot(sequence: int, /, **changes: Any) -> Row:
    row = {
        "snapshot_id": f"snapshot-{sequence}",
        "sequence": sequence,
        "index_name": "handbook",
        "parent": f"snapshot-{sequence - 1}" if sequence > 1 else None,
        "kind": "incremental",
        "manifest_version": sequence,
        "recipe_fp": "d" * 32,
        "model_fp": "c" * 32,
        "model": "{}",
        "collection": "handbook_a",
        "documents": 3,
        "rows": 6,
        "digest": "e" * 64,
        "upserted": 6,
        "deleted": 0,
        "gates": '{"unique_keys": {"passed": true}}',
        "status": "retired",
        "run_id": "r",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return row | changes


GOOD: dict[str, list[Row]] = {
    "documents": [
        document("a.md"),
        document("b.md", version=3, quarantined_hash=content("newer")),
        document("gone.md", status="deleted", deleted_at=NOW),
        document("odd.bin", status="quarantined", content_hash="", version=0, quarantined_hash=content("odd")),
    ],
    "acl_sets": [acl_set(1, "group:hr", "role:admin"), acl_set(2), acl_set(3, "user:ann")],
    "elements": [
        parse_result("a"),
        parse_result("b", status="empty", characters=0, elements=[], error_class="NoText", error="it has no text"),
        parse_result("c", status="failed", characters=0, elements=[], error_class="Damaged", error="cut short"),
    ],
    "chunks": [chunk("a", 0), chunk("a", 1), chunk("b", 0, chunk_count=1, pages=[], terms=[], weights=[])],
    "embeddings": [embedding("a"), embedding("b", vector=[0.0, -1.0]), embedding("c", model_fp="f" * 32, vector=[1.0])],
    "index_snapshots": [
        snapshot(1),
        snapshot(2, status="live", kind="full"),
        snapshot(3, status="candidate", gates="{}"),
        snapshot(1, snapshot_id="other-1", index_name="other", status="live"),
    ],
}


@dataclass(frozen=True)
class Broken:
    """A row, and the expectation that must name it."""

    table: str
    expectation: str
    row: Row

    def __str__(self) -> str:
        return f"{self.table}-{self.expectation}"


def _documents(expectation: str, **changes: Any) -> Broken:
    return Broken("documents", expectation, document(f"broken/{expectation}", **changes))


def _elements(expectation: str, **changes: Any) -> Broken:
    return Broken("elements", expectation, parse_result(expectation, **changes))


def _chunks(expectation: str, **changes: Any) -> Broken:
    return Broken("chunks", expectation, chunk(expectation, 0, **({"chunk_count": 1} | changes)))


def _embeddings(expectation: str, **changes: Any) -> Broken:
    return Broken("embeddings", expectation, embedding(expectation, **changes))


def _snapshots(expectation: str, **changes: Any) -> Broken:
    return Broken("index_snapshots", expectation, snapshot(9, **({"parent": None} | changes)))


BROKEN: list[Broken] = [
    Broken("documents", "doc_id_unique", document("a.md")),
    _documents("doc_id_format", doc_id="A"),
    _documents("doc_id_is_of_source_and_uri", doc_id="0" * 32),
    _documents("status_known", status="lost"),
    _documents("active_has_content", content_hash=""),
    _documents("active_has_version", version=0),
    _documents("version_not_negative", version=-1),
    _documents("acl_known", acl_id=77),
    _documents("size_not_negative", size_bytes=-1),
    _documents("tenant_given", tenant=" "),
    _documents("classification_given", classification=""),
    _documents("run_id_given", run_id=""),
    _documents("media_type_format", media_type="pdf"),
    _documents("metadata_is_object", metadata="[1]"),
    _documents("deleted_has_time", status="deleted"),
    _documents("active_has_no_deletion", deleted_at=NOW),
    _documents("quarantined_has_hash", status="quarantined", content_hash=""),
    _documents("quarantined_hash_format", quarantined_hash="x"),
    _documents("title_given", title=""),
    _documents("modified_not_in_future", modified_at=NOW + timedelta(days=2)),
    Broken("acl_sets", "acl_id_unique", acl_set(1, "group:all")),
    Broken("acl_sets", "acl_id_positive", acl_set(-1, "group:all")),
    Broken("acl_sets", "principals_well_formed", acl_set(8, "everybody")),
    Broken("acl_sets", "principals_well_formed", acl_set(8, "group:Bu\u0308ro")),
    Broken("acl_sets", "tenant_well_formed", acl_set(10, "user:a", tenant="")),
    Broken("acl_sets", "principals_sorted_without_duplicates", acl_set(9, "user:b", "user:a")),
    Broken("elements", "key_unique", parse_result("a")),
    _elements("content_hash_format", content_hash="G" * 64),
    _elements("parser_fp_format", parser_fp=""),
    _elements("status_known", status="done"),
    _elements("parsed_has_elements", elements=[]),
    _elements("parsed_has_characters", characters=0),
    _elements("others_have_no_elements", status="empty"),
    _elements("failure_has_class", status="failed", elements=[], error="cut short"),
    _elements("failure_has_reason", status="failed", elements=[], error_class="Damaged"),
    _elements("metadata_is_object", metadata="{"),
    _elements("pages_not_negative", pages=-1),
    _elements("seconds_not_negative", seconds=-0.5),
    _elements("kinds_known", elements=[element("paragraph", "x"), element("poem", "x")]),
    _elements("no_blank_element", elements=[element("paragraph", "x"), element("paragraph", " \n")]),
    Broken("chunks", "key_unique", chunk("a", 0)),
    _chunks("content_hash_format", content_hash="z"),
    _chunks("recipe_fp_format", recipe_fp="z"),
    _chunks("ordinal_not_negative", ordinal=-1),
    _chunks("ordinal_below_count", ordinal=1),
    _chunks("content_complete", chunk_count=3),
    _chunks("text_not_empty", text=""),
    _chunks("body_not_blank", text="Rules\n \n"),
    _chunks("text_hash_format", text_hash="Z" * 64),
    _chunks("text_hash_is_of_text", text_hash="0" * 64),
    _chunks("body_start_not_negative", body_start=-1),
    _chunks("body_inside_text", body_start=1_000),
    _chunks("char_start_not_negative", char_start=-1),
    _chunks("span_not_empty", char_end=0),
    _chunks("section_not_negative", section=-1),
    _chunks("kind_known", kind="poem"),
    _chunks("tokens_positive", tokens=0),
    _chunks("tokens_within_encoder", tokens=257),
    _chunks("pages_ascend", pages=[2, 1]),
    _chunks("terms_ascend", terms=[5, 5, 7]),
    _chunks("a_weight_for_each_term", weights=[1.0]),
    _chunks("weights_positive", weights=[1.0, 0.0, float("nan")]),
    Broken("embeddings", "key_unique", embedding("a", vector=[1.0, 0.0])),
    _embeddings("text_hash_format", text_hash="text"),
    _embeddings("model_fp_format", model_fp="model"),
    _embeddings("vector_not_empty", vector=[]),
    _embeddings("vector_finite", vector=[float("nan"), 1.0]),
    _embeddings("dimension_of_model", vector=[1.0, 0.0, 0.0]),
    _embeddings("unit_length", vector=[0.0, 0.0]),
    Broken("index_snapshots", "snapshot_id_unique", snapshot(2, sequence=8)),
    _snapshots("sequence_unique", snapshot_id="twice", sequence=3),
    _snapshots("sequence_positive", sequence=0),
    _snapshots("one_live_snapshot", status="live"),
    _snapshots("status_known", status="done"),
    _snapshots("kind_known", kind="partial"),
    _snapshots("digest_format", digest="e" * 63),
    _snapshots("recipe_fp_format", recipe_fp="x"),
    _snapshots("model_fp_format", model_fp="x"),
    _snapshots("collection_given", collection=""),
    _snapshots("manifest_version_not_negative", manifest_version=-1),
    _snapshots("documents_not_negative", documents=-1),
    _snapshots("rows_not_negative", rows=-1),
    _snapshots("upserted_not_negative", upserted=-1),
    _snapshots("deleted_not_negative", deleted=-1),
    _snapshots("model_is_object", model="null"),
    _snapshots("gates_are_object", gates="[]"),
    _snapshots("live_passed_gates", index_name="third", status="live", gates="{}"),
    _snapshots("live_failed_no_gate", index_name="third", status="live", gates='{"unique_keys": {"passed": false}}'),
    _snapshots("parent_known", parent="nobody"),
    _snapshots("updated_after_created", updated_at=NOW - timedelta(seconds=1)),
]


def as_table(table: str, rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TABLES[table])


def fill(lake: Lake, table: str, *, broken: Row | None = None, run_id: str = "run-1") -> None:
    """The good rows by run-1, then a row by that run."""
    if table == "documents":
        lake.append("acl_sets", as_table("acl_sets", GOOD["acl_sets"]), run_id="run-1")
    lake.append(table, as_table(table, GOOD[table]), run_id="run-1")
    if broken is not None:
        lake.append(table, as_table(table, [broken]), run_id=run_id)
