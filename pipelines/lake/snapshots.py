"""The record of index snapshots: what each one holds, which is live, and how it came to be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SnapshotNotFound
from pipelines.lake.schemas import INDEX_SNAPSHOTS, TERM_STATISTICS
from pipelines.lake.tables import Lake
from pipelines.principals import DEFAULT_TENANT

TABLE = "index_snapshots"
RECIPES = "recipes"  # of a snapshot's `model`: what its rows were made by, which no reader needs
# diverged: rebuilt from nothing, and not what the incremental index held; kept beside it for an operator to decide.
Status = Literal["building", "candidate", "live", "retired", "rejected", "diverged"]
AGREEMENT = "agrees_with_incremental"  # the gate that a diverged snapshot, and none but that, did not pass
Kind = Literal["incremental", "full", "rollback"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of the index. `rows` and `digest` are what the tables say it holds."""

    snapshot_id: str
    sequence: int
    index_name: str
    parent: str | None
    kind: Kind
    manifest_version: int
    recipe_fp: str
    model_fp: str
    model: dict[str, Any]
    collection: str
    documents: int
    rows: int
    digest: str
    upserted: int
    deleted: int
    status: Status
    run_id: str
    gates: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    promoted_at: datetime | None = None  # when readers first saw it; kept when it goes and comes back

    @property
    def recipes(self) -> dict[str, str]:
        """Media type to the fingerprint of the chunks that the rows were made from."""
        return dict(self.model[RECIPES])


def history(lake: Lake, index_name: str) -> list[Snapshot]:
    """All snapshots of an index, oldest first."""
    every = lake.derived(TABLE, "snapshots", lambda: _all(lake))
    return [snapshot for snapshot in every if snapshot.index_name == index_name]


def _all(lake: Lake) -> list[Snapshot]:
    return [
        Snapshot(**{**row, "model": json.loads(row["model"]), "gates": json.loads(row["gates"])})
        for row in lake.read(TABLE).sort_by("sequence").to_pylist()
    ]


def find(snapshots: list[Snapshot], snapshot_id: str) -> Snapshot:
    """The snapshot of that id, or of a unique beginning of it.

    Raises:
        SnapshotNotFound: none or several begin like that.
    """
    found = [s for s in snapshots if s.snapshot_id.startswith(snapshot_id)] if snapshot_id else []
    if len(found) == 1:
        return found[0]
    known = ", ".join(s.snapshot_id for s in snapshots[-5:]) or "none yet"
    problem = "several snapshots begin with" if found else "there is no snapshot"
    raise SnapshotNotFound(f"{problem} {snapshot_id!r}; the newest are: {known} (`lockstep snapshots` lists all)")


def live(snapshots: list[Snapshot]) -> Snapshot | None:
    """The snapshot that is recorded as live, if any."""
    return next((s for s in reversed(snapshots) if s.status == "live"), None)


def disputed(snapshots: list[Snapshot]) -> set[str]:
    """Ids of snapshots that were live when a rebuild from nothing came to something else."""
    compared = (snapshot.gates.get(AGREEMENT, {}) for snapshot in snapshots)
    return {result["live_snapshot"] for result in compared if not result.get("passed", True)}


def gone_live(snapshot: Snapshot, *, run_id: str) -> Snapshot:
    """The same snapshot, live from now on."""
    return replace(snapshot, status="live", run_id=run_id, promoted_at=snapshot.promoted_at or datetime.now(UTC))


def record(lake: Lake, *snapshots: Snapshot) -> None:
    """Insert or replace snapshots in one commit."""
    now = datetime.now(UTC)
    rows = []
    for snapshot in snapshots:
        row = asdict(replace(snapshot, updated_at=now))
        row["model"] = json.dumps(row["model"], sort_keys=True)
        row["gates"] = json.dumps(row["gates"], sort_keys=True)
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=INDEX_SNAPSHOTS)
    lake.replace(TABLE, table, key="snapshot_id", run_id=snapshots[0].run_id)


@dataclass(frozen=True, slots=True)
class TermStatistics:
    """In how many rows of a snapshot each lexical term occurs, of one tenant's rows; BM25's IDF is taken from this."""

    rows: int
    terms: np.ndarray  # int64, ascending
    frequencies: np.ndarray  # int32, same length, all positive

    @classmethod
    def empty(cls) -> TermStatistics:
        """Of no rows."""
        return cls(0, np.empty(0, np.int64), np.empty(0, np.int32))

    def plus(self, term_lists: pa.ChunkedArray, *, sign: int = 1) -> TermStatistics:
        """With rows added (or, by `sign=-1`, taken away); each row is its list of distinct terms."""
        # Counting by hash, then merging what is counted: sorting every term of every row took ten times as long.
        found = pc.value_counts(pc.list_flatten(term_lists))
        came = (found.field("values").to_numpy(), sign * found.field("counts").to_numpy())
        unique, position = np.unique(np.concatenate([self.terms, came[0]]), return_inverse=True)
        changes = np.concatenate([self.frequencies.astype(np.int64), came[1]])
        counts = np.zeros(unique.shape, np.int64)
        np.add.at(counts, position, changes)
        kept = counts > 0
        return TermStatistics(self.rows + sign * len(term_lists), unique[kept], counts[kept].astype(np.int32))


Statistics = dict[str, TermStatistics]
"""Those of a snapshot, by tenant."""


def counted(
    statistics: Statistics, term_lists: Mapping[str, pa.ChunkedArray], *, sign: Literal[1, -1] = 1
) -> Statistics:
    """With each tenant's rows added (or, by `sign=-1`, taken away); a tenant without rows has no entry."""
    found = dict(statistics)
    for tenant, terms in term_lists.items():
        found[tenant] = found.get(tenant, TermStatistics.empty()).plus(terms, sign=sign)
    return {tenant: one for tenant, one in found.items() if one.rows}


def write_term_statistics(lake: Lake, snapshot_id: str, statistics: Statistics, *, run_id: str) -> None:
    """Store the statistics of a snapshot: one row a tenant, and one for the default tenant where there are no rows."""
    told = statistics or {DEFAULT_TENANT: TermStatistics.empty()}
    table = pa.Table.from_pylist(
        [
            {
                "snapshot_id": snapshot_id,
                "tenant": tenant,
                "rows": one.rows,
                "terms": one.terms,
                "frequencies": one.frequencies,
            }
            for tenant, one in sorted(told.items())
        ],
        schema=TERM_STATISTICS,
    )
    lake.append("term_statistics", table, run_id=run_id)


def find_term_statistics(lake: Lake, snapshot_id: str) -> Statistics | None:
    """The statistics of a snapshot by tenant, None if there are none."""
    table = lake.read("term_statistics", where=pc.field("snapshot_id") == snapshot_id)
    if table.num_rows == 0:
        return None
    found = {table["tenant"][row].as_py(): _statistics(table.slice(row, 1)) for row in range(table.num_rows)}
    return {tenant: one for tenant, one in found.items() if one.rows}


def read_term_statistics(lake: Lake, snapshot_id: str, tenant: str) -> TermStatistics:
    """The statistics of one tenant's rows in a snapshot; of a tenant without rows there, those of no rows.

    Raises:
        SnapshotNotFound: none are stored for that snapshot.
    """
    table = lake.read("term_statistics", where=pc.field("snapshot_id") == snapshot_id)
    if table.num_rows == 0:
        raise SnapshotNotFound(
            f"no term statistics are stored for snapshot {snapshot_id}; run `lockstep update --full`"
        )
    own = table.filter(pc.equal(table["tenant"], tenant))
    return _statistics(own) if own.num_rows else TermStatistics.empty()


def _statistics(row: pa.Table) -> TermStatistics:
    return TermStatistics(
        row["rows"][0].as_py(),
        row["terms"].combine_chunks().flatten().to_numpy(),
        row["frequencies"].combine_chunks().flatten().to_numpy(),
    )
