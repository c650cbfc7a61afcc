"""Step 6: move the alias to a candidate that passed every gate, and keep the record true to the alias."""

from __future__ import annotations

import time
from dataclasses import replace

from pipelines.errors import GateFailed, IndexMismatch, RebuildDiffers
from pipelines.lake import snapshots
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.audit import write_audit
from pipelines.update.reports import PromotionReport

_INDEXED_TIMEOUT_SECONDS = 600.0


def reconcile(project: Project, *, run_id: str) -> Snapshot | None:
    """Make the record agree with the alias, which is the truth, and return the live snapshot, if any.

    A crash between moving the alias and recording it leaves the two apart; a lost index folder leaves a record
    of a live snapshot that nobody can search.
    """
    recorded = snapshots.live(snapshots.recent(project.lake, project.alias))
    actual = _behind_alias(project)
    if actual == recorded:
        return recorded
    changed = []
    if recorded is not None:
        changed.append(replace(recorded, status="retired", run_id=run_id))
    if actual is not None:
        actual = snapshots.gone_live(actual, run_id=run_id)
        changed.append(actual)
    snapshots.record(project.lake, *changed)
    return actual


def _behind_alias(project: Project) -> Snapshot | None:
    index = project.index()
    collection = index.alias_target(project.alias)
    if collection is None or not index.exists(collection):
        return None
    state = index.read_state(collection)
    if not state or state["building"]:
        return None
    return snapshots.by_id(project.lake, project.alias, state["snapshot_id"])


def promote(project: Project, snapshot_id: str, *, run_id: str) -> PromotionReport:
    """Make a candidate live, when every gate is recorded as passed and its rows are indexed.

    Raises:
        GateFailed: a gate did not pass or was not run; the live snapshot stays.
        RebuildDiffers: it is not what the incremental index holds; the live snapshot stays.
        IndexMismatch: the slot no longer holds that snapshot.
    """
    from pipelines.update.snapshot.gates import GATES

    history = snapshots.recent(project.lake, project.alias)
    snapshot = snapshots.find(history, snapshot_id)
    live = snapshots.live(history)
    if live is not None and live.snapshot_id == snapshot.snapshot_id:
        return PromotionReport(snapshot.snapshot_id, False, None, snapshot.collection, 0.0)
    if snapshot.status == "diverged":
        raise RebuildDiffers(
            f"snapshot {snapshot.snapshot_id} is not promoted: it was rebuilt from nothing and is not what the live "
            f"snapshot {live.snapshot_id if live else '(none)'} held; `lockstep rollback {snapshot.snapshot_id}` makes "
            "it live when you have looked at the documents that its record names"
        )
    refused = sorted(name for name in GATES if not snapshot.gates.get(name, {}).get("passed"))
    if refused:
        raise GateFailed(
            f"snapshot {snapshot.snapshot_id} is not promoted: {', '.join(refused)} did not pass or did not run; the "
            f"live snapshot {live.snapshot_id if live else '(none)'} stays. Look at the checks of this run, then run "
            "the update again, or `lockstep update --full` to build from nothing"
        )
    seconds = swap(project, snapshot, live, action="promote", run_id=run_id)
    return PromotionReport(snapshot.snapshot_id, True, live.snapshot_id if live else None, snapshot.collection, seconds)


def swap(project: Project, snapshot: Snapshot, live: Snapshot | None, *, action: str, run_id: str) -> float:
    """Move the alias to the slot of a snapshot and record it; returns the seconds from the first to the last act.

    Raises:
        IndexMismatch: the slot does not hold that snapshot.
    """
    index = project.index()
    state = index.read_state(snapshot.collection) or {}
    if state.get("building") or state.get("snapshot_id") != snapshot.snapshot_id:
        raise IndexMismatch(
            f"collection {snapshot.collection} does not hold snapshot {snapshot.snapshot_id} but "
            f"{state.get('snapshot_id', 'nothing')}{' (half built)' if state.get('building') else ''}; run the update "
            "again"
        )
    index.wait_until_indexed(snapshot.collection, timeout_seconds=_INDEXED_TIMEOUT_SECONDS)
    started = time.perf_counter()
    detail = {"from": live.snapshot_id if live else None, "to": snapshot.snapshot_id, "digest": snapshot.digest}
    write_audit(project, action=action, target=f"index:{project.alias}", detail=detail, run_id=run_id)
    index.point_alias(project.alias, snapshot.collection)
    changed = [snapshots.gone_live(snapshot, run_id=run_id)]
    if live is not None:
        changed.append(replace(live, status="retired", run_id=run_id))
    agrees = snapshot.gates.get(snapshots.AGREEMENT, {})
    if "rebuilt_digest" in agrees:  # compared, or chosen by an operator: what was kept has been decided
        kept = [s for s in snapshots.recent(project.lake, project.alias) if s.status == "diverged"]
        changed += [replace(s, status="rejected", run_id=run_id) for s in kept if s.snapshot_id != snapshot.snapshot_id]
    snapshots.record(project.lake, *changed)
    return time.perf_counter() - started
