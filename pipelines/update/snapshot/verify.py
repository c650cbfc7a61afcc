"""Reading the live collection back in full and holding it against the tables."""

from __future__ import annotations

import time

from pipelines.errors import IndexMismatch, IndexUnavailable, SnapshotNotFound
from pipelines.lake import snapshots
from pipelines.lake.derive import Progress
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.reports import VerifyReport
from pipelines.update.snapshot.candidate import lost_manifest
from pipelines.update.snapshot.evidence import Evidence, compare, compare_vectors

_SHOWN = 20
_ATTEMPTS = 3
_EVERYTHING = "every row with all its fields, its dense vector and its sparse weights, bit for bit, against the tables"
_LOST = (
    "every row's fields against the digest recorded with the snapshot, and its dense vector, bit for bit, against "
    "table 'embeddings'; not the sparse weights, nor which documents there should be: the version of table 'documents' "
    "that the snapshot was made from is gone"
)


def verify(project: Project, *, progress: Progress | None = None) -> VerifyReport:
    """Whether every row of the live collection is what the tables say, vectors included, and nothing is missing.

    What is expected is computed anew from manifest, chunks and vectors at the snapshot's manifest version, with the
    recipe and model that the snapshot was made by, whatever today's configuration says.

    Raises:
        SnapshotNotFound: nothing is live.
        IndexUnavailable: updates replaced what was read, each time.
    """
    started = time.perf_counter()
    for _ in range(_ATTEMPTS):
        snapshot = live_snapshot(project)
        state = project.index().read_state(snapshot.collection)
        lost = lost_manifest(project, snapshot)
        try:
            found = (compare_vectors if lost else compare)(project, snapshot, progress=progress)
        except (IndexMismatch, IndexUnavailable):
            if project.index().read_state(snapshot.collection) == state:
                raise
            continue
        if project.index().read_state(snapshot.collection) == state:
            return _report(found, snapshot, lost=lost, seconds=time.perf_counter() - started)
    raise IndexUnavailable(
        f"verifying index {project.alias!r}: an update built anew what was being read at each of {_ATTEMPTS} attempts; "
        "run it again when no update runs"
    )


def _report(found: Evidence, snapshot: Snapshot, *, lost: bool, seconds: float) -> VerifyReport:
    expected_rows = snapshot.rows if lost else found.expected_rows
    expected_digest = snapshot.digest if lost else found.expected_digest
    problems = (found.rows_that_differ, found.vectors_that_differ, found.repeated)
    same = found.digest == expected_digest == snapshot.digest and found.rows == expected_rows
    return VerifyReport(
        ok=same and not any(kind.count for kind in problems),
        snapshot_id=snapshot.snapshot_id,
        compared=_LOST if lost else _EVERYTHING,
        complete=not lost,
        rows=found.rows,
        expected_rows=expected_rows,
        expected_digest=expected_digest,
        actual_digest=found.digest,
        differing_documents=tuple(found.differing_documents[:_SHOWN]),
        differing_rows=tuple(row for kind in problems for row in kind.first)[:_SHOWN],
        differing=sum(kind.count for kind in problems),
        seconds=seconds,
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
    found = snapshots.by_id(project.lake, project.alias, state["snapshot_id"])
    if found is None:
        raise SnapshotNotFound(
            f"collection {collection} holds snapshot {state['snapshot_id']}, of which table 'index_snapshots' knows "
            "nothing (was it lost?); run `lockstep update`, which builds a new one"
        )
    return found
