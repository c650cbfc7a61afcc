from __future__ import annotations

import pytest

from pipelines.index.protocol import Ranking
from pipelines.retrieval.fusion import fuse, ordered


def test_a_row_that_both_halves_like_comes_first() -> None:
    dense = Ranking(("a", "b", "c"), (0.9, 0.8, 0.7))
    sparse = Ranking(("b", "d"), (12.0, 3.0))
    fused = fuse([dense, sparse], k=10, rrf_k=60)
    assert [chunk_id for chunk_id, _ in fused] == ["b", "a", "d", "c"]
    assert dict(fused)["b"] == pytest.approx(1 / 62 + 1 / 61)


def test_equal_fused_scores_come_in_the_order_of_ids() -> None:
    fused = fuse([Ranking(("z",), (1.0,)), Ranking(("a",), (1.0,))], k=2, rrf_k=60)
    assert [chunk_id for chunk_id, _ in fused] == ["a", "z"]


def test_scores_that_differ_in_their_last_bits_are_equal() -> None:
    one = Ranking(("b", "a"), (0.5000000001, 0.5))
    other = Ranking(("a", "b"), (0.5000000001, 0.5))
    assert [c for c, _ in ordered(one)] == [c for c, _ in ordered(other)] == ["a", "b"]


def test_only_the_best_k_are_returned() -> None:
    ranking = Ranking(tuple(f"{n:03d}" for n in range(100)), tuple(1 - n / 100 for n in range(100)))
    assert len(fuse([ranking], k=7, rrf_k=60)) == 7
    assert fuse([Ranking((), ())], k=7, rrf_k=60) == []
