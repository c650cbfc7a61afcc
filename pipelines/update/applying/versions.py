"""Every version of every document, kept from the manifest's change feed as it is merged."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import manifest
from pipelines.lake.portions import portions
from pipelines.lake.schemas import DOCUMENT_VERSIONS
from pipelines.project import Project

TABLE = "document_versions"
_COMMITS = 200  # of the manifest, read at a time
_PART_ROWS = 16_384  # held as Python's own objects at a time
_BEFORE = frozenset({"update_preimage", "delete"})
_LABELS = ("acl_id", "tenant", "classification")
Row = dict[str, Any]


def catch_up(project: Project, *, run_id: str) -> int:
    """Keep what the manifest's commits since the last call did, and return how many versions that were.

    An update calls this after each merge. One that died in between is made good by the next. Where the change feed no
    longer reaches back, each document's present state is kept as a version called `gap`.
    """
    lake = project.lake
    version = lake.version(manifest.TABLE)
    known = _newest(project)
    if known > version:  # the manifest was lost and made again, or restored: its numbers mean something else now
        return _fill(project, version, run_id=run_id)
    added = 0
    while known < version:
        until = min(known + _COMMITS, version)
        feed = lake.change_parts(manifest.TABLE, known, until)
        if feed is None:
            return added + _fill(project, version, run_id=run_id)
        before = lake.count(TABLE)
        told = (rows for part in feed for rows in _versions(part))
        lake.append_parts(TABLE, told, rows=_PART_ROWS, run_id=run_id)
        added += lake.count(TABLE) - before
        known = until
    return added


def _newest(project: Project) -> int:
    """The manifest's version up to which everything is kept; -1 for nothing."""
    kept = project.lake.newest(TABLE, ["durable_at", "manifest_version"], by="durable_at", rows=1)
    if not kept.num_rows:
        return -1
    newest = kept.filter(pc.equal(kept["durable_at"], pc.max(kept["durable_at"])))
    return int(pc.max(newest["manifest_version"]).as_py())


def _versions(feed: pa.Table) -> Iterator[pa.Table]:
    """The versions that a feed tells, worked out a part at a time: a first build may be one commit of all documents."""
    is_before = pc.is_in(feed["_change_type"], pa.array(sorted(_BEFORE)))
    before, after = feed.filter(is_before), feed.filter(pc.invert(is_before))
    after = after.sort_by([("_commit_version", "ascending"), ("uri", "ascending")])
    for start in range(0, len(after), _PART_ROWS):
        part = after.slice(start, _PART_ROWS)
        theirs = before.filter(pc.is_in(before["doc_id"], value_set=part["doc_id"].combine_chunks()))
        earlier = {(row["_commit_version"], row["doc_id"]): row for row in theirs.to_pylist()}
        rows = [
            _version(row, _change(earlier.get((row["_commit_version"], row["doc_id"])), row), row["_commit_version"])
            for row in part.to_pylist()
        ]
        yield pa.Table.from_pylist(rows, schema=DOCUMENT_VERSIONS)


def _change(before: Row | None, after: Row) -> str:
    """What happened to a document between two states."""
    if after["status"] == manifest.DELETED:
        return "deleted"
    if after["quarantined_hash"] and (before is None or before["quarantined_hash"] != after["quarantined_hash"]):
        return "quarantined"
    if before is None or before["status"] == manifest.QUARANTINED != after["status"]:
        return "added"
    if before["status"] == manifest.DELETED:
        return "restored"
    if before["content_hash"] != after["content_hash"]:
        return "changed"
    return "access" if any(before[name] != after[name] for name in _LABELS) else "attributes"


def _version(row: Row, change: str, manifest_version: int) -> Row:
    given = {name: row[name] for name in DOCUMENT_VERSIONS.names if name in row}
    return {**given, "change": change, "durable_at": row["updated_at"], "manifest_version": manifest_version}


def _fill(project: Project, version: int, *, run_id: str) -> int:
    """Keep the present state of every document, and say that what was before it is not known."""
    now, lake = datetime.now(UTC), project.lake
    rows = lake.count(manifest.TABLE)

    def present() -> Iterator[pa.Table]:
        for portion in portions(rows):
            for batch in lake.lookup(manifest.TABLE, portion).to_batches(max_chunksize=_PART_ROWS):
                kept = [
                    {**_version(row, "gap", version), "durable_at": now, "run_id": run_id} for row in batch.to_pylist()
                ]
                yield pa.Table.from_pylist(kept, schema=DOCUMENT_VERSIONS)

    lake.append_parts(TABLE, present(), rows=rows, run_id=run_id)  # at once: the next call takes all of it for done
    return rows
