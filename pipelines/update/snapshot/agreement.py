"""Whether a rebuild from nothing came to what the incremental index holds; if not, both stay and an operator decides.

The live slot is read back and held against the tables, and its digest is carried forward to the rebuild's manifest
version as an incremental update would: a document that came in between is no difference.
"""

from __future__ import annotations

from pipelines.errors import RebuildDiffers
from pipelines.identity import digest
from pipelines.index.rows import row_hashes
from pipelines.lake import manifest, snapshots
from pipelines.lake.derive import Progress
from pipelines.lake.manifest import ManifestChanges
from pipelines.lake.portions import Portion
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.reports import GateResult
from pipelines.update.snapshot.candidate import lost_manifest, some_at_a_time
from pipelines.update.snapshot.evidence import Evidence, Problems, compare
from pipelines.update.snapshot.rows import ExpectedRows, portions

DESCRIPTION = "A rebuild from nothing has the digest of the live index, brought forward to the same manifest version."


def agreement(project: Project, snapshot_id: str, *, progress: Progress | None = None) -> GateResult:
    """Compare a candidate that was built from nothing with the live snapshot; of any other nothing is asked."""
    history = snapshots.recent(project.lake, project.alias)
    rebuilt, live = snapshots.find(history, snapshot_id), snapshots.live(history)
    if live is None or live.snapshot_id == rebuilt.snapshot_id:
        return not_asked("nothing else is live")
    if rebuilt.kind != "full":
        return not_asked("the candidate was not built from nothing")
    if (live.recipe_fp, live.model_fp) != (rebuilt.recipe_fp, rebuilt.model_fp):
        return not_asked("the live snapshot was made by another recipe or model")
    changes = None
    if not lost_manifest(project, live):
        changes = manifest.changes_between(project.lake, live.manifest_version, rebuilt.manifest_version)
    if changes is None:
        return not_asked("the tables no longer tell what changed since the live snapshot")
    return _compared(project, rebuilt, live, changes, progress)


def _compared(
    project: Project, rebuilt: Snapshot, live: Snapshot, changes: ManifestChanges, progress: Progress | None
) -> GateResult:
    found = compare(project, live, progress=progress)
    forward = _brought_forward(project, live, changes)
    problems = _problems(found)
    same = found.digest == live.digest and forward == rebuilt.digest
    if not same and not problems.count:
        problems = _between_slots(project, live, rebuilt, set(changes.doc_ids))
    return GateResult(
        snapshots.AGREEMENT,
        same and not problems.count,
        DESCRIPTION,
        {
            "live_snapshot": live.snapshot_id,
            "live_digest": live.digest,
            "digest_of_the_live_slot": found.digest,
            "incremental_digest": forward,
            "rebuilt_digest": rebuilt.digest,
            "changed_since": len(changes.doc_ids),
            "failing": problems.count,
            "differing_documents": sorted(problems.documents),
            "failing_rows": list(problems.first),
        },
    )


def not_asked(why: str) -> GateResult:
    """The result where there is nothing to compare."""
    return GateResult(snapshots.AGREEMENT, True, f"Not compared: {why}.", {"compared": f"no: {why}"})


def was_asked(result: GateResult) -> bool:
    """Whether anything was compared."""
    return "rebuilt_digest" in result.details


def _brought_forward(project: Project, live: Snapshot, changes: ManifestChanges) -> str:
    """The digest that an incremental update of the live snapshot would have recorded."""
    carried = live.digest
    for some in some_at_a_time(changes):
        carried = digest(ExpectedRows(project, some.before).row_hashes, start=carried, subtract=True)
        carried = digest(ExpectedRows(project, some.after).row_hashes, start=carried)
    return carried


def _problems(found: Evidence) -> Problems:
    every = Problems()
    for kind in (found.rows_that_differ, found.vectors_that_differ, found.repeated):
        every = every.joined(kind)
    return every


def _between_slots(project: Project, live: Snapshot, rebuilt: Snapshot, changed: set[str]) -> Problems:
    """The rows of unchanged documents that one slot has and the other has not."""
    problems = Problems()
    for pages in portions(max(live.rows, rebuilt.rows)):
        for page in pages:
            before = _rows(project, live, page, changed)
            after = _rows(project, rebuilt, page, changed)
            for (chunk_id, _), uri in sorted(before.items() ^ after.items()):
                problems.add(problem="not the same in both slots", chunk_id=chunk_id, uri=uri)
    return problems


def _rows(project: Project, snapshot: Snapshot, page: Portion, without: set[str]) -> dict[tuple[str, str], str]:
    """(chunk_id, row hash) of what a slot holds to the document's address."""
    found: dict[tuple[str, str], str] = {}
    for rows in project.index().stored(snapshot.collection, page):
        columns = (rows[name].to_pylist() for name in ("doc_id", "chunk_id", "uri"))
        for doc_id, chunk_id, uri, computed in zip(*columns, row_hashes(rows, snapshot.model_fp), strict=True):
            if doc_id not in without:
                found[chunk_id, computed] = uri
    return found


def require_agreement(snapshot_id: str, result: GateResult) -> None:
    """Do nothing when they agree, or were not compared.

    Raises:
        RebuildDiffers: naming the documents.
    """
    if result.passed:
        return
    details = result.details
    documents = details["differing_documents"]
    named = ", ".join(documents[:20]) + (f" and {len(documents) - 20} more" if len(documents) > 20 else "")
    raise RebuildDiffers(
        f"snapshot {snapshot_id} was rebuilt from nothing and is not what the live snapshot {details['live_snapshot']} "
        f"holds: digest {details['rebuilt_digest'][:16]}, expected {details['incremental_digest'][:16]}; rows that "
        f"differ: {details['failing']}; documents: {named or 'none, the recorded digest is wrong'}. Both are kept, and "
        f"the live one stays; look at these documents, then run `lockstep rollback {snapshot_id}` to make the rebuilt "
        "one live"
    )
