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
import pyarrow.dataset as ds

from pipelines.errors import SnapshotNotFound
from pipelines.lake.schemas import INDEX_SNAPSHOTS, TERM_STATISTICS
from pipelines.lake.tables import Lake
from pipelines.principals import DEFAULT_TENANT

TABLE = "index_snapshots"
_STATISTICS = "term_statistics"
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
    """Of gates that passed, only that they did: this table is written whole with every update, and keeps every row."""
    return {name: {"passed": True} if result.get("passed") else result for name, result in gates.items()}


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

    def frequencies_of(self, terms: np.ndarray) -> np.ndarray:
        """How many rows have each of these terms: int32, a new array."""
        found = np.zeros(len(terms), np.int32)
        known = np.isin(terms, self.terms, assume_unique=True)
        found[known] = self.frequencies[np.searchsorted(self.terms, terms[known])]
        return found

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


_EMPTY = TermStatistics.empty()
_WHOLE_ABOVE = 8  # a new base, once more than one in so many terms differs from the old one


def write_term_statistics(
    lake: Lake, snapshot_id: str, statistics: Statistics, *, since: str | None = None, run_id: str
) -> None:
    """Store the statistics of a snapshot as their difference to the base of an earlier one, or to a new base.

    Args:
        lake: the tables.
        snapshot_id: whose they are.
        statistics: by tenant; where there are no rows, an empty entry of the default tenant is stored.
        since: the snapshot that they were carried forward from; None: a new base.
        run_id: recorded with the commit.
    """
    told = statistics or {DEFAULT_TENANT: _EMPTY}
    base, known = (_base(lake, since) if since else None) or ("", {})
    changed = {tenant: _difference(known.get(tenant, _EMPTY), one) for tenant, one in told.items()}
    rows = []
    if not base or _WHOLE_ABOVE * _terms(changed) > _terms(known):
        base = f"base-{snapshot_id}"
        rows = [_row(base, tenant, None, one) for tenant, one in sorted(told.items())]
        changed = {tenant: TermStatistics(one.rows, _EMPTY.terms, _EMPTY.frequencies) for tenant, one in told.items()}
    rows += [_row(snapshot_id, tenant, base, one) for tenant, one in sorted(changed.items())]
    lake.append(_STATISTICS, pa.Table.from_pylist(rows, schema=TERM_STATISTICS), run_id=run_id)


def find_term_statistics(lake: Lake, snapshot_id: str) -> Statistics | None:
    """The statistics of a snapshot by tenant, None if there are none."""
    own = lake.read(_STATISTICS, where=pc.field("snapshot_id") == snapshot_id)
    if own.num_rows == 0:
        return None
    base = _by_tenant(lake.read(_STATISTICS, where=pc.field("snapshot_id") == own["base"][0].as_py()))
    found = {tenant: _overlaid(base.get(tenant, _EMPTY), one) for tenant, one in _by_tenant(own).items()}
    return {tenant: one for tenant, one in found.items() if one.rows}


def read_term_statistics(lake: Lake, snapshot_id: str, tenant: str) -> TermStatistics:
    """The statistics of one tenant's rows in a snapshot; of a tenant without rows there, those of no rows.

    Raises:
        SnapshotNotFound: none are stored for that snapshot.
    """
    own = lake.read(_STATISTICS, where=pc.field("snapshot_id") == snapshot_id)
    if own.num_rows == 0:
        raise SnapshotNotFound(
            f"no term statistics are stored for snapshot {snapshot_id}; run `lockstep update --full`"
        )
    difference = _by_tenant(own).get(tenant)
    if difference is None:
        return _EMPTY
    where = (pc.field("snapshot_id") == own["base"][0].as_py()) & (pc.field("tenant") == tenant)
    return _overlaid(_by_tenant(lake.read(_STATISTICS, where=where)).get(tenant, _EMPTY), difference)


def with_statistics(lake: Lake) -> set[str]:
    """The snapshots whose statistics are stored: maintenance has not pruned them."""
    table = lake.read(_STATISTICS, ["snapshot_id", "base"])
    return set(table.filter(pc.is_valid(table["base"]))["snapshot_id"].to_pylist())


def statistics_needed(lake: Lake, snapshot_ids: pa.Array) -> pa.Array:
    """The ids of the rows of table 'term_statistics' that these snapshots need: their own, and of their bases."""
    table = lake.read(_STATISTICS, ["snapshot_id", "base"])
    bases = table.filter(pc.is_in(table["snapshot_id"], value_set=snapshot_ids))["base"].unique().drop_null()
    return pa.array([*snapshot_ids.to_pylist(), *bases.to_pylist()], pa.string())


def _base(lake: Lake, snapshot_id: str) -> tuple[str, Statistics] | None:
    own = lake.read(_STATISTICS, ["base"], where=pc.field("snapshot_id") == snapshot_id)
    if own.num_rows == 0:
        return None
    base: str = own["base"][0].as_py()
    return base, _by_tenant(lake.read(_STATISTICS, where=pc.field("snapshot_id") == base))


def _by_tenant(table: pa.Table) -> Statistics:
    return {
        table["tenant"][row].as_py(): TermStatistics(
            table["rows"][row].as_py(),
            table["terms"][row].values.to_numpy(),
            table["frequencies"][row].values.to_numpy(),
        )
        for row in range(table.num_rows)
    }


def _row(snapshot_id: str, tenant: str, base: str | None, one: TermStatistics) -> dict[str, object]:
    own = {"rows": one.rows, "terms": one.terms, "frequencies": one.frequencies}
    return {"snapshot_id": snapshot_id, "tenant": tenant, "base": base, **own}


def _terms(statistics: Statistics) -> int:
    return sum(len(one.terms) for one in statistics.values())


def _difference(base: TermStatistics, now: TermStatistics) -> TermStatistics:
    """The terms whose frequency is another one now, with that; all rows."""
    terms = np.union1d(base.terms, now.terms)
    before, after = base.frequencies_of(terms), now.frequencies_of(terms)
    changed = before != after
    return TermStatistics(now.rows, terms[changed], after[changed])


def _overlaid(base: TermStatistics, difference: TermStatistics) -> TermStatistics:
    """The base with what differs from it."""
    terms = np.union1d(base.terms, difference.terms)
    frequencies = base.frequencies_of(terms)
    frequencies[np.searchsorted(terms, difference.terms)] = difference.frequencies
    kept = frequencies > 0
    return TermStatistics(difference.rows, terms[kept], frequencies[kept])
