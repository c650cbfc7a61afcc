"""Step 3: merge what was found and could be parsed into the manifest, in one commit.

What does not parse stays at its last good version; from this commit on the desired state is fixed.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import LakeError
from pipelines.identity import doc_id
from pipelines.lake import dead_letters, manifest
from pipelines.lake.dead_letters import Failure
from pipelines.lake.schemas import DOCUMENTS
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.applying import approvals, census, versions
from pipelines.update.applying.changes import FollowedTo, read_followed, read_outcomes
from pipelines.update.applying.parse import parse_failures, parse_results
from pipelines.update.looking import progress
from pipelines.update.reports import ManifestReport

Row = dict[str, Any]

_PART_ROWS = 16_384  # held as Python's own objects at a time


def merge_manifest(project: Project, *, run_id: str) -> ManifestReport:
    """Bring the manifest to what the staged changes say; no change, no commit.

    Raises:
        ManifestMoved: the manifest changed since the changes were found.
        LakeError: a staged document was not parsed; nothing was merged.
    """
    started = time.perf_counter()
    lake = project.lake
    version = lake.version(manifest.TABLE)
    staged = staging.read_changes(project.home.staging, manifest_version=version)
    outcomes, found_failures = read_outcomes(project.home.staging)
    followed, healed = read_followed(project.home.staging)
    failures = [*found_failures, *parse_failures(project, staged)]
    # Before the manifest: once it says that a content is quarantined, nobody parses that content again to find out why.
    dead_letters.record(lake, failures, healthy=(), run_id=run_id)
    counted = census.count(project)
    counts: Counter[str] = Counter()
    moved: dict[str, census.Count] = {}
    now = datetime.now(UTC)
    parts = (
        _next_rows(project, staged.slice(start, _PART_ROWS), counts, moved, run_id=run_id, now=now)
        for start in range(0, len(staged), _PART_ROWS)
    )
    merged = lake.merge_parts(manifest.TABLE, parts, key="doc_id", rows=len(staged), run_id=run_id)
    whole = census.total(census.carry(project, counted, moved))
    healthy = _healthy(project, failures, healed)
    open_letters = dead_letters.record(lake, (), healthy=healthy, run_id=run_id)
    versions.catch_up(project, run_id=run_id)
    _follow(project, followed)
    return ManifestReport(
        manifest_version=merged,
        added=counts["added"],
        changed=counts["changed"],
        deleted=counts["deleted"],
        access_changed=counts["access"],
        unchanged=sum(o.unchanged for o in outcomes),
        quarantined=whole.quarantined,
        active=whole.active,
        open_dead_letters=open_letters,
        committed=merged != version,
        seconds=time.perf_counter() - started,
    )


def _next_rows(
    project: Project,
    staged: pa.Table,
    counts: Counter[str],
    moved: dict[str, census.Count],
    *,
    run_id: str,
    now: datetime,
) -> pa.Table:
    """The next rows of the documents of some staged changes; what each change does is added to `counts` and `moved`."""
    previous = _previous(project, staged)
    content = staged.filter(pc.equal(staged["action"], "content"))
    results = parse_results(project, content) if content.num_rows else {}
    rows: list[Row] = []
    for change in staged.to_pylist():
        kind, row = _next_row(change, previous.get(change["doc_id"]), results, now)
        counts[kind] += 1
        if row is not None:
            rows.append({**row, "run_id": run_id, "updated_at": now})
            before = census.of_row(previous.get(change["doc_id"]))
            source = change["source"]
            moved[source] = moved.get(source, census.Count()).plus(census.of_row(row)).plus(before, -1)
    return pa.Table.from_pylist(rows, schema=DOCUMENTS)


def _previous(project: Project, staged: pa.Table) -> dict[str, Row]:
    return {row["doc_id"]: row for row in project.lake.lookup(manifest.TABLE, staged["doc_id"]).to_pylist()}


def _next_row(
    change: Row,
    before: Row | None,
    results: Mapping[tuple[str, str], Mapping[str, Any]],
    now: datetime,
) -> tuple[str, Row | None]:
    """What one staged change does to its document: how it counts, and the document's next row (None: nothing)."""
    known = before if before is not None and before["status"] != manifest.DELETED else None
    if change["action"] == "delete":
        if known is None:
            return "unchanged", None
        gone = {"status": manifest.DELETED, "deleted_at": now, "detected_at": change["detected_at"]}
        return "deleted", {**known, **gone, "quarantined_hash": None}
    seen = {name: change[name] for name in _SEEN}
    if change["action"] == "attributes":
        if known is None:
            raise LakeError(
                f"document {change['uri']!r} is staged for new attributes, but the manifest does not know it"
            )
        moved = any(known[name] != seen[name] for name in ("acl_id", "tenant", "classification"))
        return "access" if moved else "unchanged", {**known, **seen}
    result = results.get((change["content_hash"], change["media_type"]))
    if result is None:
        raise LakeError(
            f"document {change['uri']!r} of source {change['source']!r} was not parsed; run the update again"
        )
    if result["status"] == "failed":
        if known is None:
            blank = {**_blank(change, before), "status": manifest.QUARANTINED}
            return "quarantined", {**blank, **seen, "quarantined_hash": change["content_hash"]}
        return "quarantined", {**known, **seen, "quarantined_hash": change["content_hash"]}
    served = {
        "content_hash": change["content_hash"],
        "media_type": change["media_type"],
        "title": _title(change, result),
        "metadata": _metadata(change["metadata"], str(result["metadata"])),
        "status": manifest.ACTIVE,
        "deleted_at": None,
        "quarantined_hash": None,
    }
    if known is not None and known["content_hash"] == change["content_hash"]:
        moved = known["acl_id"] != seen["acl_id"]
        return "access" if moved else "unchanged", {**known, **seen, **served}
    version = (before["version"] if before else 0) + 1
    kind = "changed" if known is not None and known["status"] == manifest.ACTIVE else "added"
    return kind, {**_blank(change, before), **seen, **served, "version": version}


def _title(change: Row, result: Mapping[str, Any]) -> str:
    """What the source says, else what the document says, else its name."""
    told = json.loads(change["metadata"]).get("title")
    return str(told or result["title"] or change["uri"].rpartition("/")[2])


_SEEN = ("tenant", "acl_id", "classification", "size_bytes", "etag", "modified_at", "detected_at")


def _blank(change: Row, before: Row | None) -> Row:
    """A document of which nothing is served yet; its version goes on from an earlier life."""
    return {
        "doc_id": change["doc_id"],
        "source": change["source"],
        "uri": change["uri"],
        "media_type": change["media_type"],
        "content_hash": "",
        "version": before["version"] if before else 0,
        "title": change["uri"].rpartition("/")[2],
        "metadata": "{}",
        "deleted_at": None,
        "retain_until": None,
    }


def _metadata(from_source: str, from_document: str) -> str:
    """What the document says of itself, and over it what its source says."""
    return json.dumps({**json.loads(from_document), **json.loads(from_source)}, ensure_ascii=False, sort_keys=True)


def _follow(project: Project, followed: list[FollowedTo]) -> None:
    """Remember that what was found is in the manifest now; a kill before that has it applied once more."""
    for one in followed:
        state = progress.read(project.home, one.source)
        approved = {"approved_at": datetime.now(UTC)} if one.approved else {}
        followed_to = (one.sequence, one.labels, one.waiting)
        if approved or (state.applied_sequence, state.labels, state.left) != followed_to:
            progress.change(
                project.home,
                one.source,
                applied_sequence=one.sequence,
                labels=one.labels,
                left=one.waiting,
                **approved,
            )
        if one.settled:
            approvals.settle(project.home, one.source)


def _healthy(project: Project, failures: list[Failure], healed: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Documents with an open letter that nothing is wrong with any more."""
    letters = dead_letters.open_letters(project.lake).select(["source", "uri", "stage"]).to_pylist()
    failing = {(failure.source, failure.uri) for failure in failures}
    documents = project.lake.lookup(
        manifest.TABLE,
        [doc_id(row["source"], row["uri"]) for row in letters],
        ["source", "uri", "quarantined_hash"],
    )
    quarantined = documents.filter(documents["quarantined_hash"].is_valid())
    failing |= set(zip(quarantined["source"].to_pylist(), quarantined["uri"].to_pylist(), strict=True))
    return [
        (row["source"], row["uri"])
        for row in letters
        if (row["source"], row["uri"]) not in failing
        and (row["stage"] in ("parse", "chunk") or (row["stage"] != "encode" and (row["source"], row["uri"]) in healed))
    ]
