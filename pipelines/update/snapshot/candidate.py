"""Step 5: bring the idle slot to the manifest's version, by difference or from nothing, and record the candidate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.identity import digest, fingerprint
from pipelines.index.slots import every_slot, idle_slot, kept_slots, slot_names
from pipelines.lake import manifest, snapshots, term_statistics
from pipelines.lake.derive import Progress
from pipelines.lake.manifest import ManifestChanges
from pipelines.lake.memory import give_back
from pipelines.lake.portions import Portion
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.reports import CandidateReport
from pipelines.update.snapshot.promotion import reconcile
from pipelines.update.snapshot.rows import ExpectedRows, portions, spanning

_DOCUMENTS_A_JOIN = 8_000  # of a difference, with their rows before and after


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
        progress: called with (documents done, documents in all).

    Raises:
        IndexUnavailable: the index cannot be reached; the next run continues from the slot's own record.
    """
    started = time.perf_counter()
    lake = project.lake
    version = lake.version(manifest.TABLE)
    live = reconcile(project, run_id=run_id)
    history = snapshots.recent(lake, project.alias)
    if live is not None and not full:
        reason = _nothing_to_do(project, live, history, version)
        if reason:
            return _report(live, built=False, touched=(), reason=reason, started=started)
    _drop_spare(project, history)
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


def rows_to_fill(project: Project) -> int:
    """Rows that the next update with any change writes to a slot that is still empty. Asks no index."""
    history = snapshots.recent(project.lake, project.alias)
    live = snapshots.live(history)
    if live is None:
        return 0
    slots = project.config.milvus.slots
    idle = idle_slot(project.alias, live.collection, slots=slots, history=history)
    filled = any(s.collection == idle and s.status == "retired" for s in history)
    return 0 if filled else live.rows


def _same_rows(project: Project, changes: ManifestChanges) -> bool:
    for some in some_at_a_time(changes):
        before, after = ExpectedRows(project, some.before), ExpectedRows(project, some.after)
        if before.documents_without_rows() or before.hashes() != after.hashes():
            return False
    return True


def some_at_a_time(changes: ManifestChanges) -> Iterator[ManifestChanges]:
    """The changes of some documents at a time, so that their rows fit in memory."""
    ids = changes.doc_ids
    for start in range(0, len(ids), _DOCUMENTS_A_JOIN):
        some = pa.array(ids[start : start + _DOCUMENTS_A_JOIN], pa.string())

        def of(documents: pa.Table, some: pa.Array = some) -> pa.Table:
            return documents.filter(pc.is_in(documents["doc_id"], value_set=some))

        yield ManifestChanges(of(changes.before), of(changes.after), changes.passing.intersection(some.to_pylist()))


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
    if held.snapshot_id in snapshots.disputed(history):
        return rebuild("the slot's snapshot is not what a rebuild from nothing came to")
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


def _drop_spare(project: Project, history: list[Snapshot]) -> None:
    """Remove a slot that was used only while another was kept for an operator, once nothing is kept any more."""
    index = project.index()
    live = index.alias_target(project.alias)
    if kept_slots(history) - {live}:
        return
    spare = set(every_slot(project.alias)) - set(slot_names(project.alias, project.config.milvus.slots)) - {live}
    for collection in sorted(spare.intersection(index.collections())):
        index.drop(collection)


def rebuild_at(project: Project, snapshot: Snapshot, *, run_id: str, progress: Progress | None = None) -> Snapshot:
    """Build the rows of an earlier snapshot into the idle slot, from the tables at its manifest version."""
    history = snapshots.recent(project.lake, project.alias)
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
    index, lake = project.index(), project.lake
    index.drop(collection)
    index.create(collection, project.recipe.dimension)
    statistics: term_statistics.Statistics = {}
    documents, rows, row_digest = 0, 0, digest(())
    in_all = manifest.active_count(lake, version)

    def add(portion: Portion) -> None:  # a scope of its own: what it holds has gone before the next portion is read
        nonlocal statistics, documents, rows, row_digest
        some = manifest.active_documents(lake, version, portion=portion)
        expected = ExpectedRows(project, some)
        for table in expected.tables():
            index.upsert(collection, table)
        documents += some.num_rows
        rows += len(expected)
        row_digest = digest(expected.row_hashes, start=row_digest)
        statistics = term_statistics.counted(statistics, expected.terms())

    for pages in portions(max(in_all, lake.count("chunks"))):
        give_back()  # what the portion before left, and before the first one the earlier steps
        add(spanning(pages))
        if progress:
            progress(documents, in_all)
    return _record(
        project,
        collection,
        history,
        kind=kind,
        version=version,
        documents=documents,
        rows=rows,
        row_digest=row_digest,
        upserted=rows,
        deleted=0,
        statistics=statistics,
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
    """The candidate and the documents touched; None when it takes a build from nothing, which starts with a drop.

    Documents are taken some thousand at a time, each part's new rows before its old ones go.
    """
    index, state, collection = project.index(), plan.state, plan.collection
    statistics = term_statistics.find(project.lake, state["snapshot_id"])
    if statistics is None:
        return None
    interrupted = bool(state["building"])
    rows, row_digest, upserted, deleted = int(state["rows"]), str(state["digest"]), 0, 0
    done, total = 0, len(changes.doc_ids)
    for some in some_at_a_time(changes):
        before, after = ExpectedRows(project, some.before), ExpectedRows(project, some.after)
        wanted = after.hashes()
        # What the slot really holds decides what is written: a build that was killed half-way left some of it done.
        held = index.row_hashes(collection, some.doc_ids)
        if not (interrupted or held == before.hashes()):
            return None
        upserts = [
            position
            for position, (key, value) in enumerate(zip(after.chunk_ids, after.row_hashes, strict=True))
            if held.get(key) != value
        ]
        deletes = sorted(set(held) - set(wanted))
        if not done:
            index.write_state(collection, {**state, "building": True})
        for table in after.tables(upserts):
            index.upsert(collection, table)
        index.delete(collection, deletes)
        rows += len(after) - len(before)
        row_digest = digest(before.row_hashes, start=row_digest, subtract=True)
        row_digest = digest(after.row_hashes, start=row_digest)
        statistics = term_statistics.counted(statistics, before.terms(), sign=-1)
        statistics = term_statistics.counted(statistics, after.terms())
        upserted, deleted, done = upserted + len(upserts), deleted + len(deletes), done + len(some.doc_ids)
        if progress:
            progress(done, total)
    snapshot = _record(
        project,
        collection,
        history,
        kind="incremental",
        version=version,
        documents=state["documents"] + changes.after.num_rows - changes.before.num_rows,
        rows=rows,
        row_digest=row_digest,
        upserted=upserted,
        deleted=deleted,
        statistics=statistics,
        since=state["snapshot_id"],
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
    statistics: term_statistics.Statistics,
    since: str | None = None,
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
        model={**recipe.model, snapshots.RECIPES: recipe.chunk_fps},
        collection=collection,
        documents=documents,
        rows=rows,
        digest=row_digest,
        upserted=upserted,
        deleted=deleted,
        status="candidate",
        run_id=run_id,
    )
    term_statistics.write(project.lake, snapshot.snapshot_id, statistics, since=since, run_id=run_id)
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
        "model": {name: value for name, value in snapshot.model.items() if name != snapshots.RECIPES},
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
