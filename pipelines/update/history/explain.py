"""From a hit back to where it comes from: place, document, source, parser, recipe, model, runs and snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines import identity
from pipelines.errors import SnapshotNotFound
from pipelines.lake import manifest, provenance, snapshots, term_statistics
from pipelines.lake.snapshots import Snapshot
from pipelines.parsing.routes import ROUTES
from pipelines.principals import DEFAULT_TENANT
from pipelines.project import Project
from pipelines.update.history import versions
from pipelines.update.rights import Differing, Rights
from pipelines.update.snapshot.candidate import lost_manifest
from pipelines.update.snapshot.rows import ExpectedRows, page_span, portions, spanning
from pipelines.update.snapshot.verify import live_snapshot

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything known of one chunk, by topic, as plain values that JSON can hold but for times."""

    chunk_id: str
    text: str
    place: Row
    document: Row
    access: Row
    parsing: Row
    recipe: Row
    encoding: Row
    snapshot: Row
    times: Row


def explain(
    project: Project, chunk_id: str, *, principals: Sequence[str] = (), tenant: str = DEFAULT_TENANT
) -> Explanation:
    """Where a row of the live index comes from; a unique beginning of its id is enough.

    Args:
        project: whose live index it is.
        chunk_id: of the row.
        principals: who asks; a row that they may not read now is not there for them. Empty: the operator of the
            installation, who can read its files anyway.
        tenant: whose people they are.

    Raises:
        AccessError: a principal, or the tenant's name, is malformed.
        SnapshotNotFound: nothing is live; or no such row is, and the message tells which retained snapshot had it.
    """
    live = live_snapshot(project)
    rights, state = Rights(project), project.index().read_state(live.collection) or {}
    found, hit = _find(project, live, chunk_id.strip().lower(), bool(principals))
    if principals and not rights.visible(state, principals, tenant).shows(hit):
        raise SnapshotNotFound(_nothing(live, chunk_id.strip().lower()))
    document = _document(project, live, hit["doc_id"])
    chunk = _chunk(project, document, hit["doc_id"], identity.text_hash(hit["text"]), found)
    version = _version(project, document)
    return Explanation(
        chunk_id=found,
        text=hit["text"],
        place={
            "heading_path": chunk.get("heading_path") or [],
            "pages": page_span(chunk.get("pages") or []),
            "characters": [chunk.get("char_start"), chunk.get("char_end")],
            "ordinal": chunk.get("ordinal"),
            "chunk_count": chunk.get("chunk_count"),
            "kind": chunk.get("kind"),
            "tokens": chunk.get("tokens"),
        },
        document=_told_document(project, document, version),
        access=_access(document, rights.differing(state)),
        parsing=_parsing(project, document),
        recipe=_recipe(project, live, document, chunk),
        encoding=_encoding(project, live, identity.text_hash(hit["text"])),
        snapshot={
            "live": live.snapshot_id,
            "collection": live.collection,
            "run_id": live.run_id,
            "manifest_version": live.manifest_version,
            "first_with_this_version": version.snapshot_id if version else None,
        },
        times={
            "changed_at": document["modified_at"],
            "detected_at": document["detected_at"],
            "durable_at": version.durable_at if version else document["updated_at"],
            "searchable_at": version.searchable_at if version else live.promoted_at,
        },
    )


def _find(project: Project, live: Snapshot, wanted: str, as_somebody: bool) -> tuple[str, Row]:
    index = project.index()
    if len(wanted) == len(identity.chunk_id("", "", 0)):
        exact = index.fetch(live.collection, [wanted])
        if wanted in exact:
            return wanted, exact[wanted]
    elif wanted:
        ids = [one for one in index.row_hashes(live.collection) if one.startswith(wanted)]
        if len(ids) == 1:
            return ids[0], index.fetch(live.collection, ids)[ids[0]]
        if ids and not as_somebody:  # how many there are tells of rows that may not be read
            raise SnapshotNotFound(f"{len(ids)} chunks of the live snapshot begin with {wanted!r}; give more of the id")
    raise SnapshotNotFound(_nothing(live, wanted) if as_somebody else _elsewhere(project, live, wanted))


def _nothing(live: Snapshot, wanted: str) -> str:
    """The same words whether there is no such row or it may not be read: the difference would tell that it is there."""
    return f"no chunk of the live snapshot {live.snapshot_id} that you may read has the id {wanted!r}"


def _elsewhere(project: Project, live: Snapshot, wanted: str) -> str:
    """What is known of a chunk that the live snapshot does not hold."""
    problem = f"no chunk of the live snapshot {live.snapshot_id} has the id {wanted!r}"
    history = snapshots.history(project.lake, project.alias)
    whole = term_statistics.stored(project.lake)
    for snapshot in reversed(history):
        if not wanted or snapshot.snapshot_id not in whole or lost_manifest(project, snapshot):
            continue
        for pages in portions(snapshot.rows):
            documents = manifest.active_documents(project.lake, snapshot.manifest_version, portion=spanning(pages))
            rows = ExpectedRows(project, documents, snapshot=snapshot)
            for one, uri in zip(rows.chunk_ids, rows.uris(), strict=True):
                if not one.startswith(wanted):
                    continue
                made = f"{snapshot.created_at:%Y-%m-%d %H:%M} UTC"
                return (
                    f"{problem}; snapshot {snapshot.snapshot_id} ({snapshot.status}, made {made}) had it, in "
                    f"document {uri!r}: `lockstep history {uri}` tells what became of that"
                )
    return f"{problem}, nor has any snapshot that is kept; `lockstep query` prints the ids with --json"


def _document(project: Project, live: Snapshot, doc_id: str) -> Row:
    found: list[Row] = manifest.active_documents(project.lake, live.manifest_version, doc_ids=[doc_id]).to_pylist()
    if not found:
        raise SnapshotNotFound(
            f"document {doc_id} is in the index and not in manifest version {live.manifest_version}; run "
            "`lockstep verify`"
        )
    return found[0]


def _chunk(project: Project, document: Row, doc_id: str, text_hash: str, chunk_id: str) -> Row:
    """The chunk's row in the tables; empty when today's configuration makes others."""
    recipe_fp = project.recipe.chunk_fp(document["media_type"])
    where = (pc.field("content_hash") == document["content_hash"]) & (pc.field("text_hash") == text_hash)
    rows = project.lake.read("chunks", where=where).drop_columns(["terms", "weights", "text"]).to_pylist()
    own = [row for row in rows if row["recipe_fp"] == recipe_fp] or rows
    own.sort(key=lambda row: int(row["ordinal"]))
    for occurrence, row in enumerate(own):
        if identity.chunk_id(doc_id, text_hash, occurrence) == chunk_id:
            return dict(row)
    return {}


def _version(project: Project, document: Row) -> versions.DocumentVersion | None:
    (known,) = versions.history(project, document["uri"], document["source"])
    return next((one for one in known.versions if one.live), None)


def _told_document(project: Project, document: Row, version: versions.DocumentVersion | None) -> Row:
    section = next((s for s in project.config.sources if s.name == document["source"]), None)
    names = ("source", "uri", "doc_id", "title", "media_type", "size_bytes", "content_hash", "version")
    return {
        **{name: document[name] for name in names},
        "kind": section.kind if section else None,
        "version_label": version.label if version else None,
        "author": version.author if version else None,
        "merged_by_run": document["run_id"],
        "blob": project.blobs.exists(document["content_hash"]),
    }


def _access(document: Row, differing: Differing) -> Row:
    """The readers that the snapshot's rows carry, and today's: both have to allow it."""
    then, now = differing.documents.get(document["doc_id"], (document["acl_id"], document["acl_id"]))
    allowed, allowed_now = differing.registry.of(then), differing.registry.of(now)
    return {
        "acl_id": then,
        "readers": list(allowed[1]) if allowed else [],
        "readers_today": list(allowed_now[1]) if allowed_now else [],
        "tenant": document["tenant"],
        "tenant_today": allowed_now[0] if allowed_now else None,
        "classification": document["classification"],
    }


def _parsing(project: Project, document: Row) -> Row:
    parser_fp = project.recipe.parser_fp(document["media_type"])
    where = (pc.field("content_hash") == document["content_hash"]) & (pc.field("parser_fp") == parser_fp)
    rows = project.lake.read("elements", ["seconds", "pages", "characters"], where=where).to_pylist()
    route = ROUTES.get(document["media_type"])
    return {
        "parser": route.module if route else None,
        "libraries": list(route.libraries) if route else [],
        "parser_fp": parser_fp,
        "seconds": rows[0]["seconds"] if rows else None,
        "pages": rows[0]["pages"] if rows else None,
        "characters": rows[0]["characters"] if rows else None,
        **_writing(project, "elements", where),
    }


def _recipe(project: Project, live: Snapshot, document: Row, chunk: Row) -> Row:
    where = (pc.field("content_hash") == document["content_hash"]) & (
        pc.field("recipe_fp") == chunk.get("recipe_fp", "")
    )
    return {
        "recipe_fp": chunk.get("recipe_fp"),
        "snapshot_recipe_fp": live.recipe_fp,
        "todays": live.recipe_fp == project.recipe.fingerprint,
        **_writing(project, "chunks", where),
    }


def _encoding(project: Project, live: Snapshot, text_hash: str) -> Row:
    encoder = live.model.get("encoder", {})
    where = (pc.field("text_hash") == text_hash) & (pc.field("model_fp") == live.model_fp)
    return {
        "text_hash": text_hash,
        "model": encoder.get("model"),
        "model_fp": live.model_fp,
        "backend": encoder.get("backend"),
        "dtype": encoder.get("dtype"),
        "dimension": encoder.get("dimension"),
        **_writing(project, "embeddings", where),
    }


def _writing(project: Project, table: str, where: ds.Expression) -> Row:
    """The run that made a row, unless maintenance has written the table anew since."""
    writing = provenance.written_by(Path(project.lake.uri(table)), where)
    if writing is None:
        return {"run_id": None, "made_at": None, "rewritten_by": None}
    if writing.anew:
        return {"run_id": None, "made_at": None, "rewritten_by": writing.run_id}
    return {"run_id": writing.run_id, "made_at": writing.at, "rewritten_by": None}
