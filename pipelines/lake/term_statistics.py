"""In how many rows of a snapshot each lexical term occurs, as differences to a base that many snapshots share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.errors import SnapshotNotFound
from pipelines.lake.schemas import TERM_STATISTICS
from pipelines.lake.tables import Lake
from pipelines.principals import DEFAULT_TENANT

TABLE = "term_statistics"
FEW_TERMS = 32  # of a question, that are looked up by themselves
_WHOLE_ABOVE = 8  # a new base, once more than one in so many terms differs from the old one
_TERMS_A_ROW = 2_048


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

    def of(self, terms: np.ndarray) -> TermStatistics:
        """Of these terms alone, ascending; those that no row has are left out."""
        counts = self.frequencies_of(terms)
        return TermStatistics(self.rows, terms[counts > 0], counts[counts > 0])

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


def write(lake: Lake, snapshot_id: str, statistics: Statistics, *, since: str | None = None, run_id: str) -> None:
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
        rows = [row for tenant, one in sorted(told.items()) for row in _rows(base, tenant, None, one)]
        changed = {tenant: TermStatistics(one.rows, _EMPTY.terms, _EMPTY.frequencies) for tenant, one in told.items()}
    rows += [row for tenant, one in sorted(changed.items()) for row in _rows(snapshot_id, tenant, base, one)]
    lake.append(TABLE, pa.Table.from_pylist(rows, schema=TERM_STATISTICS), run_id=run_id)


def find(lake: Lake, snapshot_id: str) -> Statistics | None:
    """The statistics of a snapshot by tenant, None if there are none."""
    own = lake.read(TABLE, where=pc.field("snapshot_id") == snapshot_id)
    if own.num_rows == 0:
        return None
    base = _by_tenant(lake.read(TABLE, where=pc.field("snapshot_id") == own["base"][0].as_py()))
    found = {tenant: _overlaid(base.get(tenant, _EMPTY), one) for tenant, one in _by_tenant(own).items()}
    return {tenant: one for tenant, one in found.items() if one.rows}


def read(lake: Lake, snapshot_id: str, tenant: str, *, terms: np.ndarray | None = None) -> TermStatistics:
    """The statistics of one tenant's rows in a snapshot; of a tenant without rows there, those of no rows.

    Args:
        lake: the tables.
        snapshot_id: of which snapshot.
        tenant: of whose rows.
        terms: the ones that matter, ascending, at best `FEW_TERMS`: the others are left out. None: all.

    Raises:
        SnapshotNotFound: none are stored for that snapshot.
    """
    some = None if terms is None or len(terms) > FEW_TERMS else terms
    own = _stored(lake, snapshot_id, tenant, some)
    if own.num_rows == 0:
        if lake.read(TABLE, ["rows"], where=pc.field("snapshot_id") == snapshot_id).num_rows:
            return _EMPTY
        raise SnapshotNotFound(
            f"no term statistics are stored for snapshot {snapshot_id}; run `lockstep update --full`"
        )
    base = _by_tenant(_stored(lake, own["base"][0].as_py(), tenant, some))
    found = _overlaid(base.get(tenant, _EMPTY), _by_tenant(own)[tenant])
    return found if terms is None else found.of(terms)


def _stored(lake: Lake, snapshot_id: str, tenant: str, terms: np.ndarray | None) -> pa.Table:
    """The rows of a snapshot or a base that are about a tenant, or those of them that can have one of some terms.

    A row without terms is always among them: how many rows there are in all is in each.
    """
    where = (pc.field("snapshot_id") == snapshot_id) & (pc.field("tenant") == tenant)
    if terms is not None:
        where &= reduce(or_, (_can_have(int(term)) for term in terms), pc.field("first_term").is_null())
    return lake.read(TABLE, where=where)


def _can_have(term: int) -> ds.Expression:
    return (pc.field("first_term") <= term) & (pc.field("last_term") >= term)


def stored(lake: Lake) -> set[str]:
    """The snapshots whose statistics are stored: maintenance has not pruned them."""
    table = lake.read(TABLE, ["snapshot_id", "base"])
    return set(table.filter(pc.is_valid(table["base"]))["snapshot_id"].to_pylist())


def needed(lake: Lake, snapshot_ids: pa.Array) -> pa.Array:
    """The ids of the rows of table 'term_statistics' that these snapshots need: their own, and of their bases."""
    table = lake.read(TABLE, ["snapshot_id", "base"])
    bases = table.filter(pc.is_in(table["snapshot_id"], value_set=snapshot_ids))["base"].unique().drop_null()
    return pa.array([*snapshot_ids.to_pylist(), *bases.to_pylist()], pa.string())


def _base(lake: Lake, snapshot_id: str) -> tuple[str, Statistics] | None:
    own = lake.read(TABLE, ["base"], where=pc.field("snapshot_id") == snapshot_id)
    if own.num_rows == 0:
        return None
    base: str = own["base"][0].as_py()
    return base, _by_tenant(lake.read(TABLE, where=pc.field("snapshot_id") == base))


def _by_tenant(table: pa.Table) -> Statistics:
    table = table.sort_by("first_term")
    found: Statistics = {}
    for tenant in table["tenant"].unique().to_pylist():
        own = table.filter(pc.equal(table["tenant"], tenant))
        terms, frequencies = (pc.list_flatten(own[name]).to_numpy() for name in ("terms", "frequencies"))
        found[tenant] = TermStatistics(own["rows"][0].as_py(), terms, frequencies)
    return found


def _rows(snapshot_id: str, tenant: str, base: str | None, one: TermStatistics) -> Iterator[dict[str, object]]:
    """One without terms, which every reader takes, and the terms in their order."""
    common = {"snapshot_id": snapshot_id, "tenant": tenant, "base": base, "rows": one.rows}
    yield {**common, "terms": [], "frequencies": []}
    for start in range(0, len(one.terms), _TERMS_A_ROW):
        some = slice(start, start + _TERMS_A_ROW)
        terms = one.terms[some]
        ends = {"first_term": int(terms[0]), "last_term": int(terms[-1])}
        yield {**common, **ends, "terms": terms, "frequencies": one.frequencies[some]}


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
