"""Step 5: bring the idle slot to the manifest's version, by difference or from nothing, and record the candidate."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from pipelines.identity import digest, fingerprint
from pipelines.index.slots import idle_slot
from pipelines.lake import manifest, snapshots
from pipelines.lake.derive import Progress
from pipelines.lake.manifest import ManifestChanges
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.reports import CandidateReport
from pipelines.update.snapshot.promotion import reconcile
from pipelines.update.snapshot.rows import ExpectedRows


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """How the idle slot gets to the manifest's version. `changes` is None for a build from nothing."""

    collection: str
    state: dict[str, Any]
    changes: ManifestChanges | None
    reason: str
    proved: bool = True  # what the slot holds passed its gates


def build_candidate(
    project: Project, *, run_id: str, full: bool = False, progress: Progress | None = None
) -> CandidateReport:
    """Write what the idle slot lacks and record the snapshot as candidate; the live slot is not touched.

    Args:
        project: whose manifest is the desired state.
        run_id: recorded with the snapshot.
        full: build from nothing even where a difference would do, without trust in the change feed.
        progress: called with (rows written or removed, rows in all).

    Raises:
        IndexUnavailable: the index cannot be reached; the next run continues from the slot's own record.
    """
    started = time.perf_counter()
    lake = project.lake
    version = lake.version(manifest.TABLE)
    live = reconcile(project, run_id=run_id)
    history = snapshots.history(lake, project.alias)
    if live is not None and not full:
        reason = _nothing_to_do(project, live, history, version)
        if reason:
            return _report(live, built=False, touched=(), reason=reason, started=started)
    plan = _plan(project, history, version, full=full)
    built = plan.changes and _build_difference(project, plan, plan.changes, history, version, run_id, progress)
    if built:
        snapshot, touched = built
    else:
        snapshot, touched = _build_full(project, plan.collection, history, version, run_id, progress), ()
        if plan.changes:
            plan = replace(plan, proved=True, reason="the tables no longer tell what the slot holds")
    note = {"snapshot_id": snapshot.snapshot_id, "touched": list(touched) if plan.proved else None}
    staging.write_note(project.home.staging, staging.CANDIDATE, note)
    return _report(snapshot, built=True, touched=touched, reason=plan.reason, started=started)


def _nothing_to_do(project: Project, live: Snapshot, history: list[Snapshot], version: int) -> str:
    """Why the live snapshot is what the manifest asks for; empty when it is not."""
    recipe = project.recipe
    if (live.recipe_fp, live.model_fp) != (recipe.fingerprint, recipe.model_fp) or lost_manifest(project, live):
        return ""
    if live.manifest_version == version:
        return "the live snapshot is at the manifest's version"
    newer = [s for s in history if s.status == "retired" and s.manifest_version == version]
    newer = [s for s in newer if not lost_manifest(project, s)]
    if any((s.recipe_fp, s.model_fp) == (recipe.fingerprint, recipe.model_fp) for s in newer):
        return "rolled back on purpose, and nothing has changed since; a full rebuild would bring the newest back"
    changes = manifest.changes_between(project.lake, live.manifest_version, version)
    if changes is not None and _same_rows(project, changes):
        return "what changed in the manifest changes no row of the index"
    return ""


def lost_manifest(project: Project, snapshot: Snapshot) -> bool:
    """Whether the manifest is no longer the one that a snapshot was built from.

    A table that was lost or restored from a backup counts its versions from there again: the number alone, and the
    change feed, would then tell of other documents.
    """
    lake = project.lake
    if snapshot.manifest_version > lake.version(manifest.TABLE):
        return True
    committed_at = lake.committed_at(manifest.TABLE, snapshot.manifest_version)
    return committed_at is not None and committed_at > snapshot.created_at


def _same_rows(project: Project, changes: ManifestChanges) -> bool:
    before, after = ExpectedRows(project, changes.before), ExpectedRows(project, changes.after)
    return not before.documents_without_rows() and before.hashes() == after.hashes()


def _plan(project: Project, history: list[Snapshot], version: int, *, full: bool) -> SlotPlan:
    index, recipe = project.index(), project.recipe
    collection = idle_slot(
        project.alias, index.alias_target(project.alias), slots=project.config.milvus.slots, history=history
    )
    state = (index.read_state(collection) if index.exists(collection) else None) or {}

    def rebuild(reason: str) -> SlotPlan:
        return SlotPlan(collection, state, None, reason)

    if full:
        return rebuild("asked for")
    if not state:
        return rebuild("the slot is empty")
    if (state["recipe_fp"], state["model_fp"]) != (recipe.fingerprint, recipe.model_fp):
        return rebuild("the recipe or the model changed")
    held = next((s for s in history if s.snapshot_id == state["snapshot_id"]), None)
    if held is None:
        return rebuild("the slot holds a snapshot that the tables do not know")
    if held.status == "rejected":
        return rebuild("the slot's snapshot was rejected")
    if state["manifest_version"] > version:
        return rebuild("the slot is ahead of the manifest")
    if lost_manifest(project, held):
        return rebuild("the manifest that the slot was built from is gone")
    interrupted = bool(state["building"])
    changes = manifest.changes_between(project.lake, state["manifest_version"], version, in_between=interrupted)
    if changes is None:
        return rebuild("the change feed no longer reaches back to the slot's version")
    if len(changes.doc_ids) > max(1_000, state["documents"] // 2):
        return rebuild("more than half of the documents changed")
    reason = f"{len(changes.doc_ids)} documents changed since the slot's version"
    # Of a candidate that was killed before its gates, they must look at what that build wrote, too.
    proved = held.status != "candidate" or bool(held.gates)
    return SlotPlan(collection, state, changes, reason, proved)


def rebuild_at(project: Project, snapshot: Snapshot, *, run_id: str, progress: Progress | None = None) -> Snapshot:
    """Build the rows of an earlier snapshot into the idle slot, from the tables at its manifest version."""
    history = snapshots.history(project.lake, project.alias)
    plan = _plan(project, history, snapshot.manifest_version, full=True)
    rebuilt = _build_full(
        project, plan.collection, history, snapshot.manifest_version, run_id, progress, kind="rollback"
    )
    staging.write_note(project.home.staging, staging.CANDIDATE, {"snapshot_id": rebuilt.snapshot_id, "touched": []})
    return rebuilt


def _build_full(
    project: Project,
    collection: str,
    history: list[Snapshot],
    version: int,
    run_id: str,
    progress: Progress | None,
    kind: snapshots.Kind = "full",
) -> Snapshot:
    documents = manifest.active_documents(project.lake, version)
    expected = ExpectedRows(project, documents)
    index = project.index()
    index.drop(collection)
    index.create(collection, project.recipe.dimension)
    done = 0
    for table in expected.tables():
        index.upsert(collection, table)
        done += table.num_rows
        if progress:
            progress(done, len(expected))
    return _record(
        project,
        collection,
        history,
        kind=kind,
        version=version,
        documents=documents.num_rows,
        rows=len(expected),
        row_digest=digest(expected.row_hashes),
        upserted=len(expected),
        deleted=0,
        statistics=snapshots.counted({}, expected.terms()),
        run_id=run_id,
    )


def _build_difference(
    project: Project,
    plan: SlotPlan,
    changes: ManifestChanges,
    history: list[Snapshot],
    version: int,
    run_id: str,
    progress: Progress | None,
) -> tuple[Snapshot, tuple[str, ...]] | None:
    """The candidate and the documents touched; None, with nothing written, when it takes a build from nothing."""
    index, state, collection = project.index(), plan.state, plan.collection
    before, after = ExpectedRows(project, changes.before), ExpectedRows(project, changes.after)
    wanted = after.hashes()
    # What the slot really holds decides what is written: a build that was killed half-way left some of it done.
    held = index.row_hashes(collection, changes.doc_ids)
    statistics = snapshots.find_term_statistics(project.lake, state["snapshot_id"])
    if statistics is None or not (state["building"] or held == before.hashes()):
        return None
    upserts = [
        position
        for position, (key, value) in enumerate(zip(after.chunk_ids, after.row_hashes, strict=True))
        if held.get(key) != value
    ]
    deletes = sorted(set(held) - set(wanted))
    total, done = len(upserts) + len(deletes), 0
    index.write_state(collection, {**state, "building": True})
    for table in after.tables(upserts):
        index.upsert(collection, table)
        done += table.num_rows
        if progress:
            progress(done, total)
    index.delete(collection, deletes)
    carried = digest(before.row_hashes, start=state["digest"], subtract=True)
    snapshot = _record(
        project,
        collection,
        history,
        kind="incremental",
        version=version,
        documents=state["documents"] + changes.after.num_rows - changes.before.num_rows,
        rows=state["rows"] + len(after) - len(before),
        row_digest=digest(after.row_hashes, start=carried),
        upserted=len(upserts),
        deleted=len(deletes),
        statistics=snapshots.counted(snapshots.counted(statistics, before.terms(), sign=-1), after.terms()),
        run_id=run_id,
    )
    return snapshot, tuple(changes.doc_ids)


def _record(
    project: Project,
    collection: str,
    history: list[Snapshot],
    *,
    kind: snapshots.Kind,
    version: int,
    documents: int,
    rows: int,
    row_digest: str,
    upserted: int,
    deleted: int,
    statistics: snapshots.Statistics,
    run_id: str,
) -> Snapshot:
    """Record the candidate in the tables first, then in the slot: a slot never names a snapshot nobody knows."""
    recipe = project.recipe
    live = snapshots.live(history)
    sequence = 1 + max((s.sequence for s in history), default=0)
    identity = {"index": project.alias, "sequence": sequence, "digest": row_digest, "run_id": run_id}
    snapshot = Snapshot(
        snapshot_id=fingerprint("snapshot", identity)[:16],
        sequence=sequence,
        index_name=project.alias,
        parent=live.snapshot_id if live else None,
        kind=kind,
        manifest_version=version,
        recipe_fp=recipe.fingerprint,
        model_fp=recipe.model_fp,
        model=recipe.model,
        collection=collection,
        documents=documents,
        rows=rows,
        digest=row_digest,
        upserted=upserted,
        deleted=deleted,
        status="candidate",
        run_id=run_id,
    )
    snapshots.write_term_statistics(project.lake, snapshot.snapshot_id, statistics, run_id=run_id)
    overtaken = [
        replace(s, status="rejected") for s in history if s.collection == collection and s.status == "candidate"
    ]
    snapshots.record(project.lake, snapshot, *overtaken)
    project.index().write_state(collection, slot_state(snapshot))
    return snapshot


def slot_state(snapshot: Snapshot) -> dict[str, Any]:
    """What a slot records about itself: enough for a reader, and for the next update to go on from."""
    return {
        "snapshot_id": snapshot.snapshot_id,
        "manifest_version": snapshot.manifest_version,
        "recipe_fp": snapshot.recipe_fp,
        "model_fp": snapshot.model_fp,
        "model": snapshot.model,
        "documents": snapshot.documents,
        "rows": snapshot.rows,
        "digest": snapshot.digest,
        "building": False,
    }


def _report(
    snapshot: Snapshot, *, built: bool, touched: tuple[str, ...], reason: str, started: float
) -> CandidateReport:
    return CandidateReport(
        snapshot_id=snapshot.snapshot_id,
        built=built,
        kind=snapshot.kind,
        collection=snapshot.collection,
        manifest_version=snapshot.manifest_version,
        documents=snapshot.documents,
        rows=snapshot.rows,
        digest=snapshot.digest,
        upserted=snapshot.upserted if built else 0,
        deleted=snapshot.deleted if built else 0,
        touched=touched,
        reason=reason,
        seconds=time.perf_counter() - started,
    )
