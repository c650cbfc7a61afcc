"""The record of index snapshots: what each one holds, which is live, and how it came to be."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.errors import SnapshotNotFound
from pipelines.lake.schemas import INDEX_SNAPSHOTS
from pipelines.lake.tables import Lake

TABLE = "index_snapshots"
RECIPES = "recipes"  # of a snapshot's `model`: what its rows were made by, which no reader needs
# diverged: rebuilt from nothing, and not what the incremental index held; kept beside it for an operator to decide.
Status = Literal["building", "candidate", "live", "retired", "rejected", "diverged"]
AGREEMENT = "agrees_with_incremental"  # the gate that a diverged snapshot, and none but that, did not pass
Kind = Literal["incremental", "full", "rollback"]
_UNSETTLED = ("building", "candidate", "diverged", "live")  # in their order no other status lies between these
_RECENT = 32  # more than slots can hold


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
    """All snapshots of an index, oldest first. Takes longer with each update there was: for what operators ask."""
    return _read(lake, pc.field("index_name") == index_name)


def recent(lake: Lake, index_name: str) -> list[Snapshot]:
    """The snapshots that an update has to do with, oldest first: the newest 32, and all that are not settled."""
    return lake.derived(TABLE, f"recent {index_name}", lambda: _recent(lake, index_name))


def by_id(lake: Lake, index_name: str, snapshot_id: str) -> Snapshot | None:
    """The snapshot of that very id, however old; None if it is not known."""
    found = (s for s in recent(lake, index_name) if s.snapshot_id == snapshot_id)
    ours = (pc.field("index_name") == index_name) & (pc.field("snapshot_id") == snapshot_id)
    return next(found, None) or next(iter(_read(lake, ours)), None)


def _recent(lake: Lake, index_name: str) -> list[Snapshot]:
    """By what the log says of each file, so that those with old and settled snapshots stay closed."""
    ours = pc.field("index_name") == index_name
    after = _newest(lake, ours) - _RECENT
    found = lake.after(TABLE, by="sequence", value=after, where=ours)
    first, last = _UNSETTLED[0], _UNSETTLED[-1]
    older = lake.after(
        TABLE, by="status", value=first, until=last, inclusive=True, where=ours & (pc.field("sequence") <= after)
    )
    return _snapshots(pa.concat_tables([found, older]))


def _newest(lake: Lake, ours: ds.Expression) -> int:
    """The largest sequence of an index, 0 for none."""
    newest = (lake.greatest(TABLE, "sequence") or 0) - _RECENT
    found = lake.after(TABLE, ["sequence"], by="sequence", value=newest, where=ours)
    if not found.num_rows:  # another index was built into this table since, and counts for itself
        found = lake.read(TABLE, ["sequence"], where=ours)
    return pc.max(found["sequence"]).as_py() or 0


def _read(lake: Lake, where: ds.Expression) -> list[Snapshot]:
    return _snapshots(lake.read(TABLE, where=where))


def _snapshots(rows: pa.Table) -> list[Snapshot]:
    return [
        Snapshot(**{**row, "model": json.loads(row["model"]), "gates": json.loads(row["gates"])})
        for row in rows.sort_by("sequence").to_pylist()
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
        gates = _slim(snapshot.gates) if snapshot.status == "retired" else snapshot.gates
        row["gates"] = json.dumps(gates, sort_keys=True)
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema=INDEX_SNAPSHOTS)
    lake.replace(TABLE, table, key="snapshot_id", run_id=snapshots[0].run_id)


def _slim(gates: dict[str, Any]) -> dict[str, Any]:
    """Of gates that passed, only that they did: each row is written again with its neighbours, and kept for ever."""
    return {name: {"passed": True} if result.get("passed") else result for name, result in gates.items()}
