"""An index in memory: keeps the promises of `pipelines.index.protocol.Index`, counts its writes, fails on command."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import IndexMismatch, IndexUnavailable
from pipelines.index.protocol import (
    REVISION,
    UNFILTERED,
    AccessFilter,
    Progress,
    Ranking,
    SparseVector,
    State,
    Vectors,
)
from pipelines.index.rows import HIT_FIELDS, INDEX_ROW, SCALAR_ROW, STORED_SCALARS
from pipelines.index.wire import check_rows
from pipelines.lake.portions import Portion


@dataclass
class _Collection:
    dimension: int
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    state: State | None = None


class FakeIndex:
    """Implements `Index`. `writes` counts what was done; `fail` makes one coming call raise.

    Upserts and deletes count rows, everything else counts calls.
    """

    def __init__(self) -> None:
        self.writes: dict[str, int] = {}
        self.searches = 0
        self._collections: dict[str, _Collection] = {}
        self._aliases: dict[str, str] = {}
        self._failures: dict[str, str] = {}

    def fail(self, method: str, when: str) -> None:
        """Let the next call of a writing method raise IndexUnavailable `before` or `after` it is applied."""
        assert when in ("before", "after")
        self._failures[method] = when

    def _written(self, method: str, amount: int = 1) -> None:
        self.writes[method] = self.writes.get(method, 0) + amount

    def _broken(self, method: str, when: str) -> None:
        if self._failures.get(method) == when:
            del self._failures[method]
            raise IndexUnavailable(f"{method} fails {when} it is applied, as the test asked; run it again")

    def _of(self, collection: str) -> _Collection:
        try:
            return self._collections[collection]
        except KeyError:
            raise IndexMismatch(f"there is no collection {collection!r}; create it first") from None

    def create(self, collection: str, dimension: int) -> None:
        self._broken("create", "before")
        if collection in self._collections:
            raise IndexMismatch(f"there is a collection {collection!r}; drop it first")
        self._collections[collection] = _Collection(dimension)
        self._written("create")
        self._broken("create", "after")

    def drop(self, collection: str) -> None:
        self._broken("drop", "before")
        if collection in self._aliases.values():
            raise IndexMismatch(f"collection {collection!r} is behind an alias; point the alias elsewhere first")
        if self._collections.pop(collection, None) is not None:
            self._written("drop")
        self._broken("drop", "after")

    def exists(self, collection: str) -> bool:
        return collection in self._collections

    def collections(self) -> list[str]:
        return sorted(self._collections)

    def alias_target(self, alias: str) -> str | None:
        return self._aliases.get(alias)

    def point_alias(self, alias: str, collection: str) -> None:
        self._broken("point_alias", "before")
        self._of(collection)
        self._aliases[alias] = collection
        self._written("point_alias")
        self._broken("point_alias", "after")

    def upsert(self, collection: str, rows: pa.Table, progress: Progress | None = None) -> None:
        check_rows(collection, rows)
        self._broken("upsert", "before")
        held = self._of(collection)
        for row in rows.to_pylist():
            if len(row["dense"]) != held.dimension:
                raise IndexMismatch(f"{collection!r} has dimension {held.dimension}, a row has {len(row['dense'])}")
            held.rows[row["chunk_id"]] = row
        self._written("upsert", rows.num_rows)
        if progress and rows.num_rows:
            progress(rows.num_rows, rows.num_rows)
        self._broken("upsert", "after")

    def delete(self, collection: str, chunk_ids: Sequence[str]) -> None:
        self._broken("delete", "before")
        held = self._of(collection)
        for chunk_id in chunk_ids:
            held.rows.pop(chunk_id, None)
        self._written("delete", len(chunk_ids))
        self._broken("delete", "after")

    def row_hashes(self, collection: str, doc_ids: Sequence[str] | None = None) -> dict[str, str]:
        return {row["chunk_id"]: row["row_hash"] for row in self._rows(collection, doc_ids)}

    def rows(self, collection: str, doc_ids: Sequence[str] | None = None) -> pa.Table:
        found = [{name: row[name] for name in STORED_SCALARS} for row in self._rows(collection, doc_ids)]
        return pa.Table.from_pylist(found, schema=SCALAR_ROW).sort_by("chunk_id")

    def stored(self, collection: str, wanted: Portion | Sequence[str]) -> Iterator[pa.Table]:
        rows = self._of(collection).rows.values()
        if isinstance(wanted, Portion):
            start, stop = wanted.start, wanted.stop
            inside = [row for row in rows if start <= row["doc_id"] and (stop is None or row["doc_id"] < stop)]
        else:
            inside = [row for row in rows if row["doc_id"] in set(wanted)]
        if inside:
            yield pa.Table.from_pylist(inside, schema=INDEX_ROW)

    def _rows(self, collection: str, doc_ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        wanted = None if doc_ids is None else set(doc_ids)
        return [row for row in self._of(collection).rows.values() if wanted is None or row["doc_id"] in wanted]

    def count(self, collection: str) -> int:
        return len(self._of(collection).rows)

    def wait_until_indexed(self, collection: str, timeout_seconds: float) -> None:
        self._of(collection)

    def write_state(self, collection: str, state: Mapping[str, Any]) -> None:
        self._broken("write_state", "before")
        self._of(collection).state = {**state, REVISION: uuid.uuid4().hex}
        self._written("write_state")
        self._broken("write_state", "after")

    def read_state(self, collection: str) -> State | None:
        held = self._collections.get(collection)
        return dict(held.state) if held and held.state is not None else None

    def search_dense(self, collection: str, vectors: Vectors, *, visible: AccessFilter, limit: int) -> list[Ranking]:
        self.searches += 1
        rows = self._readable(collection, visible)
        scored = [{r["chunk_id"]: float(np.dot(vector, r["dense"])) for r in rows} for vector in vectors]
        return [_best(one, limit) for one in scored]

    def search_sparse(
        self, collection: str, vectors: Sequence[SparseVector], *, visible: AccessFilter, limit: int
    ) -> list[Ranking]:
        self.searches += 1
        rows = self._readable(collection, visible)
        rankings = []
        for vector in vectors:
            scores = {
                row["chunk_id"]: sum(
                    vector.get(term, 0.0) * weight for term, weight in zip(row["terms"], row["weights"], strict=True)
                )
                for row in rows
            }
            rankings.append(_best({chunk_id: score for chunk_id, score in scores.items() if score > 0}, limit))
        return rankings

    def _readable(self, collection: str, visible: AccessFilter) -> list[dict[str, Any]]:
        rows = self._of(collection).rows.values()
        return [row for row in rows if visible is UNFILTERED or visible.shows(row)]

    def fetch(self, collection: str, chunk_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        rows = self._of(collection).rows
        return {key: {name: rows[key][name] for name in HIT_FIELDS} for key in chunk_ids if key in rows}


def _best(scores: dict[str, float], limit: int) -> Ranking:
    best = sorted(scores.items(), key=lambda pair: (-round(pair[1] / 1e-6), pair[0]))[:limit]
    return Ranking(tuple(chunk_id for chunk_id, _ in best), tuple(score for _, score in best))
