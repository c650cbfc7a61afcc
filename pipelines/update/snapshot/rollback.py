"""Bringing an earlier snapshot back: from its slot by the alias alone, or from the tables when its slot was reused."""

from __future__ import annotations

import time
from dataclasses import replace

from pipelines.errors import SnapshotNotFound
from pipelines.lake import snapshots, term_statistics
from pipelines.lake.derive import Progress
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.reports import RollbackReport
from pipelines.update.snapshot import candidate, gates, promotion


def rollback(
    project: Project, snapshot_id: str | None = None, *, run_id: str, progress: Progress | None = None
) -> RollbackReport:
    """Make an earlier snapshot live: the given one, or the one before the live one.

    Also a rebuilt one that was kept because it differs from the incremental index. What is brought back stays live
    until an update finds something new in the sources, or a full rebuild is asked for.

    Raises:
        SnapshotNotFound: there is none to go back to, or it can no longer be made from the tables.
        GateFailed: its rows came back from the tables with another digest than they had; the live one stays.
    """
    started = time.perf_counter()
    live = promotion.reconcile(project, run_id=run_id)
    history = snapshots.history(project.lake, project.alias)
    if live is None:
        raise SnapshotNotFound(
            f"index {project.alias!r} has no live snapshot to go back from; run `lockstep update` first"
        )
    target = _target(history, live, snapshot_id)
    state = project.index().read_state(target.collection) or {}
    rebuilt = state.get("snapshot_id") != target.snapshot_id or bool(state.get("building"))
    if rebuilt:
        target = _rebuild(project, target, run_id=run_id, progress=progress)
        live = promotion.reconcile(project, run_id=run_id)
    swap_seconds = promotion.swap(project, target, live, action="rollback", run_id=run_id)
    return RollbackReport(
        snapshot_id=target.snapshot_id,
        previous=live.snapshot_id if live else "",
        rebuilt=rebuilt,
        swap_seconds=swap_seconds,
        seconds=time.perf_counter() - started,
    )


def _target(history: list[Snapshot], live: Snapshot, snapshot_id: str | None) -> Snapshot:
    if snapshot_id is not None:
        target = snapshots.find(history, snapshot_id)
        if target.snapshot_id == live.snapshot_id:
            raise SnapshotNotFound(
                f"snapshot {target.snapshot_id} is live already; name another (`lockstep snapshots`)"
            )
        if target.status not in ("retired", "diverged"):
            raise SnapshotNotFound(
                f"snapshot {target.snapshot_id} was never live (status {target.status}); name one with status "
                "'retired' (`lockstep snapshots`)"
            )
        return target
    found = _before(history, live)
    if found is None:
        raise SnapshotNotFound(
            f"no snapshot was live before {live.snapshot_id}; name one to go to (`lockstep snapshots` lists them)"
        )
    return found


def _before(history: list[Snapshot], live: Snapshot) -> Snapshot | None:
    """The nearest of the live snapshot's parents that was live itself.

    Not the one with the number before: after 1, 2, back to 1 and an update to 3, what was before 3 is 1. A snapshot
    that a rollback built again stands where the one stands that it brought back.
    """
    known = {s.snapshot_id: s for s in history}
    here: Snapshot | None = live
    while here is not None:
        here = known.get(_original(history, here).parent or "")
        if here is not None and here.status == "retired":
            return here
    return None


def _original(history: list[Snapshot], snapshot: Snapshot) -> Snapshot:
    """What a rollback built again, when that is how the snapshot came to be; else the snapshot itself."""
    if snapshot.kind != "rollback":
        return snapshot
    what = (snapshot.manifest_version, snapshot.digest, snapshot.recipe_fp, snapshot.model_fp)
    same = [
        s for s in history if s.kind != "rollback" and (s.manifest_version, s.digest, s.recipe_fp, s.model_fp) == what
    ]
    return next(iter(same), snapshot)  # the history is sorted: the first one, before any nightly rebuild of it


def _rebuild(project: Project, target: Snapshot, *, run_id: str, progress: Progress | None) -> Snapshot:
    """Build the rows of a snapshot whose slot was reused, from the tables at its manifest version."""
    recipe = project.recipe
    if (target.recipe_fp, target.model_fp) != (recipe.fingerprint, recipe.model_fp):
        raise SnapshotNotFound(
            f"snapshot {target.snapshot_id} is no longer in the index, and was made by another recipe or model than "
            "today's configuration; restore that configuration, or name a snapshot that is still in a slot"
        )
    if candidate.lost_manifest(project, target):
        raise SnapshotNotFound(
            f"snapshot {target.snapshot_id} is no longer in the index, and table 'documents' no longer has the version "
            f"that it was built from ({target.manifest_version}); restore that table from a backup, or name a snapshot "
            "that is still in a slot"
        )
    if term_statistics.find(project.lake, target.snapshot_id) is None:
        raise SnapshotNotFound(
            f"snapshot {target.snapshot_id} was pruned by maintenance: it is older than the "
            f"{project.config.retention.snapshots} snapshots that `retention.snapshots` keeps; name a newer one "
            "(`lockstep snapshots`)"
        )
    rebuilt = candidate.rebuild_at(project, target, run_id=run_id, progress=progress)
    results = [*gates.run_gates(project, rebuilt.snapshot_id), gates.same_digest(rebuilt, target)]
    gates.record_gates(project, rebuilt.snapshot_id, results, run_id=run_id)
    gates.require(rebuilt.snapshot_id, results)
    return replace(rebuilt, gates={r.name: {"passed": r.passed} for r in results})
