from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from pipelines.errors import IndexUnavailable, SnapshotNotFound
from pipelines.index.protocol import UNFILTERED, AccessFilter, Ranking, State, Vectors
from pipelines.retrieval.live import search_live
from pipelines.retrieval.search import Mode, Queries, Retriever, SlotMoved, best_per_document
from tests.fakes.index import FakeIndex
from tests.fakes.rows import DIMENSION, index_rows, readable_by, unit_vector

EVERYBODY = readable_by(*range(5))
QUERIES = Queries(np.array([unit_vector(3)], np.float32), [{10: 1.0, 1_003: 1.0}])


class ChangingIndex(FakeIndex):
    """Runs something between the search and its end, as another process would."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], None] = lambda: None

    def search_dense(self, collection: str, vectors: Vectors, *, visible: AccessFilter, limit: int) -> list[Ranking]:
        found = super().search_dense(collection, vectors, visible=visible, limit=limit)
        self.meanwhile()
        return found


@pytest.fixture
def index() -> ChangingIndex:
    index = ChangingIndex()
    fill(index, "i__a", "one")
    index.point_alias("i", "i__a")
    return index


def fill(index: FakeIndex, slot: str, snapshot_id: str) -> None:
    if not index.exists(slot):
        index.create(slot, DIMENSION)
    index.write_state(slot, {"snapshot_id": snapshot_id, "building": True})
    index.upsert(slot, index_rows(range(20), uri=snapshot_id))
    index.write_state(slot, {"snapshot_id": snapshot_id, "building": False})


def ask(index: FakeIndex, *, visible: AccessFilter = EVERYBODY, k: int = 5, mode: Mode = "hybrid") -> Any:
    retriever = Retriever(index)
    return retriever.search(retriever.resolve("i"), QUERIES, visible=visible, k=k, mode=mode)


def encode(state: State, texts: Sequence[str], mode: Mode) -> Queries:
    return QUERIES


@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_every_mode_finds_the_row_that_was_asked_for(index: ChangingIndex, mode: Mode) -> None:
    (hits,) = ask(index, mode=mode)
    assert hits[0].chunk_id == "chunk-00003"
    assert hits[0].uri == "one"
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_who_may_read_nothing_gets_nothing_and_the_index_is_not_asked(index: ChangingIndex) -> None:
    assert ask(index, visible=readable_by()) == [[]]
    assert search_live(Retriever(index), "i", ["a"], visible=lambda _: readable_by(), k=5, encode=encode).hits == [[]]
    assert index.searches == 0


def test_only_rows_of_the_callers_access_sets_are_hits(index: ChangingIndex) -> None:
    (hits,) = ask(index, visible=readable_by(3), k=20)
    assert {hit.chunk_id for hit in hits} == {f"chunk-{n:05d}" for n in (3, 8, 13, 18)}
    (everything,) = ask(index, visible=UNFILTERED, k=20)
    assert len(everything) == 20


def test_a_mode_without_its_encoding_is_a_fault_of_the_caller(index: ChangingIndex) -> None:
    retriever = Retriever(index)
    with pytest.raises(ValueError, match="hybrid"):
        retriever.search(retriever.resolve("i"), Queries(QUERIES.dense), visible=readable_by(1), k=1, mode="hybrid")


def test_no_alias_is_no_live_snapshot(index: ChangingIndex) -> None:
    with pytest.raises(SnapshotNotFound, match="lockstep update"):
        Retriever(index).resolve("other")


def test_a_live_collection_that_is_gone_is_named(index: ChangingIndex) -> None:
    del index._collections["i__a"]
    with pytest.raises(SnapshotNotFound, match="i__a"):
        Retriever(index).resolve("i")


def test_a_slot_under_construction_is_not_read(index: ChangingIndex) -> None:
    index.write_state("i__a", {"snapshot_id": "one", "building": True})
    with pytest.raises(SlotMoved):
        Retriever(index).resolve("i")


def test_what_was_read_while_the_slot_was_rebuilt_is_thrown_away(index: ChangingIndex) -> None:
    index.meanwhile = lambda: fill(index, "i__a", "two")
    with pytest.raises(SlotMoved):
        ask(index)


def test_a_slot_rebuilt_to_the_very_same_snapshot_counts_as_changed(index: ChangingIndex) -> None:
    index.meanwhile = lambda: fill(index, "i__a", "one")
    with pytest.raises(SlotMoved):
        ask(index)


def test_a_slot_dropped_during_the_search_counts_as_changed(index: ChangingIndex) -> None:
    def swap_and_drop() -> None:
        fill(index, "i__b", "two")
        index.point_alias("i", "i__b")
        index.drop("i__a")

    index.meanwhile = swap_and_drop
    with pytest.raises(SlotMoved):
        ask(index)


def test_a_move_of_the_alias_alone_does_not_disturb_a_request(index: ChangingIndex) -> None:
    fill(index, "i__b", "two")
    index.meanwhile = lambda: index.point_alias("i", "i__b")
    (hits,) = ask(index)
    assert {hit.uri for hit in hits} == {"one"}


def test_a_request_that_was_overtaken_starts_over_with_the_new_snapshots_encoding(index: ChangingIndex) -> None:
    encoded_for = []

    def encode_for(state: State, texts: Sequence[str], mode: Mode) -> Queries:
        encoded_for.append(state["snapshot_id"])
        return QUERIES

    def once() -> None:
        index.meanwhile = lambda: None
        fill(index, "i__b", "two")
        index.point_alias("i", "i__b")
        fill(index, "i__a", "three")

    index.meanwhile = once
    answer = search_live(Retriever(index), "i", ["a"], visible=lambda _: readable_by(*range(5)), k=5, encode=encode_for)
    assert answer.snapshot_id == "two"
    assert {hit.uri for hit in answer.hits[0]} == {"two"}
    assert encoded_for == ["one", "two"]


def test_a_slot_that_never_rests_ends_in_an_error_that_says_so(
    index: ChangingIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.retrieval.live._PAUSE_SECONDS", 0.0)
    index.meanwhile = lambda: fill(index, "i__a", "again")
    with pytest.raises(IndexUnavailable, match="lockstep update"):
        search_live(Retriever(index), "i", ["a"], visible=lambda _: readable_by(*range(5)), k=5, encode=encode)


def test_the_best_hit_of_each_document_is_kept(index: ChangingIndex) -> None:
    (hits,) = ask(index, k=20)
    best = best_per_document(hits)
    assert len({hit.doc_id for hit in best}) == len(best) == 10
    assert best[0] == hits[0]
