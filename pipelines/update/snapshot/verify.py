"""Reading the live collection back in full and holding it against the tables."""

from __future__ import annotations

import time

from pipelines.errors import SnapshotNotFound
from pipelines.identity import digest
from pipelines.lake import snapshots
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.reports import VerifyReport
from pipelines.update.snapshot.evidence import Evidence

_SHOWN = 20


def verify(project: Project) -> VerifyReport:
    """Whether every row of the live collection is what the tables say, and nothing is missing or surplus.

    The expected digest is computed anew from manifest, chunks and vectors at the snapshot's manifest version; when
    the configuration's recipe is no longer the snapshot's, it is the digest recorded with the snapshot.

    Raises:
        SnapshotNotFound: nothing is live.
    """
    started = time.perf_counter()
    snapshot = live_snapshot(project)
    evidence = Evidence(project, snapshot, None)
    actual = digest(computed for _, _, computed in evidence.actual_hashes)
    rows = len(evidence.actual_hashes)
    if snapshot.recipe_fp == project.recipe.fingerprint:
        expected_digest = digest(evidence.expected.row_hashes)
        expected_rows = len(evidence.expected)
    else:
        expected_digest, expected_rows = snapshot.digest, snapshot.rows
    ok = actual == expected_digest == snapshot.digest and rows == expected_rows
    differing: list[str] = []
    if not ok and snapshot.recipe_fp == project.recipe.fingerprint:
        differing = sorted({problem["uri"] for problem in evidence.differences()})
    return VerifyReport(
        ok=ok,
        snapshot_id=snapshot.snapshot_id,
        rows=rows,
        expected_rows=expected_rows,
        expected_digest=expected_digest,
        actual_digest=actual,
        differing_documents=tuple(differing[:_SHOWN]),
        seconds=time.perf_counter() - started,
    )


def live_snapshot(project: Project) -> Snapshot:
    """The snapshot behind the alias, by the slot's own record.

    Raises:
        SnapshotNotFound: nothing is live yet.
    """
    index = project.index()
    collection = index.alias_target(project.alias)
    state = index.read_state(collection) if collection is not None and index.exists(collection) else None
    if not state:
        raise SnapshotNotFound(f"index {project.alias!r} has no live snapshot; run `lockstep update` first")
    history = snapshots.history(project.lake, project.alias)
    found = next((s for s in history if s.snapshot_id == state["snapshot_id"]), None)
    if found is None:
        raise SnapshotNotFound(
            f"collection {collection} holds snapshot {state['snapshot_id']}, of which table 'index_snapshots' knows "
            "nothing (was it lost?); run `lockstep update`, which builds a new one"
        )
    return found
