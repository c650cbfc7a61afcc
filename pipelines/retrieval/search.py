"""Search in one slot of the index, with the proof that the slot did not change meanwhile.

Questions arrive as vectors: who encodes them with the snapshot's own model, and who tries again when the slot did
change, is in `live`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.errors import IndexMismatch, IndexUnavailable, SnapshotNotFound
from pipelines.index.protocol import UNFILTERED, AccessFilter, Index, Ranking, SparseVector, State, Vectors
from pipelines.retrieval.fusion import fuse, ordered

Mode = Literal["hybrid", "dense", "bm25"]


class SlotMoved(Exception):
    """The slot that a request was using is being rebuilt, or was; the request must start over. Never seen by users."""


@dataclass(frozen=True, slots=True)
class Target:
    """The slot that one whole request uses, and its record as it was when the request began."""

    collection: str
    state: State

    @property
    def snapshot_id(self) -> str:
        """The snapshot that the slot holds."""
        return str(self.state["snapshot_id"])


@dataclass(frozen=True, slots=True)
class Queries:
    """Encoded questions. What a mode does not use may be None; otherwise both have one entry a question.

    dense: float32, shape (n, dimension), unit length. sparse: term to weight, BM25 with IDF.
    """

    dense: Vectors | None = None
    sparse: Sequence[SparseVector] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One row that answers a question. `body_start`: characters of `text` before the chunk's own body."""

    chunk_id: str
    score: float
    doc_id: str
    uri: str
    source: str
    tenant: str
    acl_id: int
    text: str
    title: str
    heading_path: str
    pages: str
    body_start: int


class Retriever:
    """Finds the best rows among those that the caller may read."""

    def __init__(self, index: Index, *, candidates: int = 100, rrf_k: int = 60) -> None:
        """Search `index`.

        Args:
            index: any implementation.
            candidates: rows each half contributes to a hybrid ranking, at least k.
            rrf_k: constant of the reciprocal rank fusion.
        """
        self._index = index
        self._candidates = candidates
        self._rrf_k = rrf_k

    def resolve(self, alias: str) -> Target:
        """The slot that readers shall use now.

        Raises:
            SnapshotNotFound: the alias points at nothing, or at a collection that is gone.
            SlotMoved: the slot is being rebuilt: it stopped being live after its name was read.
        """
        collection = self._index.alias_target(alias)
        if collection is None:
            raise SnapshotNotFound(f"index {alias!r} has no live snapshot; run `lockstep update`")
        state = self._index.read_state(collection)
        if state is None and not self._index.exists(collection) and self._index.alias_target(alias) == collection:
            raise SnapshotNotFound(
                f"the live collection {collection!r} of index {alias!r} is not there (see `lockstep status` for what "
                "was found damaged); run `lockstep update`, which builds it again from the tables"
            )
        if state is None or state.get("building"):
            raise SlotMoved(collection)
        return Target(collection, state)

    def search(
        self, target: Target, queries: Queries, *, visible: AccessFilter, k: int, mode: Mode = "hybrid"
    ) -> list[list[Hit]]:
        """For each question the `k` best rows, best first (score, then chunk_id), all of the target's snapshot.

        Args:
            target: from `resolve`.
            queries: `dense` for the modes hybrid and dense, `sparse` for hybrid and bm25.
            visible: the rows that the caller may be shown; none: no hits, and the index is not asked.
            k: hits a question at most.
            mode: which halves are used.

        Raises:
            SlotMoved: the slot changed while it was read; nothing of it may be used.
            IndexUnavailable: the index cannot be reached.
        """
        halves = _halves(queries, mode)
        questions = len(halves[0])
        if not questions or not visible or k < 1:
            return [[] for _ in range(questions)]
        try:
            found = self._search(target.collection, queries, visible, k, mode)
        except (IndexUnavailable, IndexMismatch):
            if self._moved(target):
                raise SlotMoved(target.collection) from None
            raise
        if self._moved(target):
            raise SlotMoved(target.collection)
        return found

    def _search(self, collection: str, queries: Queries, visible: AccessFilter, k: int, mode: Mode) -> list[list[Hit]]:
        limit = max(k, self._candidates) if mode == "hybrid" else k
        rankings: list[list[Ranking]] = []
        if mode != "bm25" and queries.dense is not None:
            rankings.append(self._index.search_dense(collection, queries.dense, visible=visible, limit=limit))
        if mode != "dense" and queries.sparse is not None:
            rankings.append(self._index.search_sparse(collection, queries.sparse, visible=visible, limit=limit))
        best = [self._best(halves, k) for halves in zip(*rankings, strict=True)]
        fields = self._index.fetch(collection, sorted({chunk_id for one in best for chunk_id, _ in one}))
        return [[_hit(chunk_id, score, fields, visible) for chunk_id, score in one] for one in best]

    def _best(self, halves: tuple[Ranking, ...], k: int) -> list[tuple[str, float]]:
        return ordered(halves[0])[:k] if len(halves) == 1 else fuse(halves, k=k, rrf_k=self._rrf_k)

    def _moved(self, target: Target) -> bool:
        return self._index.read_state(target.collection) != target.state


def _halves(queries: Queries, mode: Mode) -> list[Any]:
    """The parts of `queries` that a mode needs, of one length each.

    Raises:
        ValueError: one is missing, or they differ in length; a fault of the caller.
    """
    needed = {"hybrid": (queries.dense, queries.sparse), "dense": (queries.dense,), "bm25": (queries.sparse,)}[mode]
    halves = [half for half in needed if half is not None]
    if len(halves) != len(needed) or len({len(half) for half in halves}) != 1:
        raise ValueError(f"mode {mode!r} needs {len(needed)} encodings of every question")
    return halves


def _hit(chunk_id: str, score: float, fields: dict[str, dict[str, Any]], visible: AccessFilter) -> Hit:
    """A hit with its fields.

    Raises:
        IndexMismatch: the row was ranked but cannot be read: it went away in between, or the index is damaged; or the
            index answered with a row that its filter leaves out, and nothing of such an answer is shown.
    """
    if chunk_id not in fields:
        raise IndexMismatch(
            f"row {chunk_id} was found but cannot be read back; run `lockstep verify`, then `lockstep update --full`"
        )
    if visible is not UNFILTERED and not visible.shows(fields[chunk_id]):
        raise IndexMismatch(
            f"row {chunk_id} was found for somebody who may not read it: the index did not keep to its filter, and the "
            "whole answer was dropped. Report this, and run `lockstep update --full`, which builds the index anew"
        )
    return Hit(chunk_id=chunk_id, score=score, **fields[chunk_id])


def best_per_document(hits: Sequence[Hit]) -> list[Hit]:
    """The first hit of each document, order kept."""
    first: dict[str, Hit] = {}
    for hit in hits:
        first.setdefault(hit.doc_id, hit)
    return list(first.values())
