"""Reciprocal rank fusion of rankings, with an order that does not depend on where a row is stored."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nsmallest
from itertools import pairwise

from pipelines.index.protocol import Ranking

# Scores of equal rows differ in their last bits with the row's place in a segment; ranks must not.
_SAME_SCORE = 1e-6


def ordered(ranking: Ranking) -> list[tuple[str, float]]:
    """(chunk_id, score), best first; equal scores by chunk_id."""
    pairs = list(zip(ranking.chunk_ids, ranking.scores, strict=True))
    if all(before - after > _SAME_SCORE for before, after in pairwise(ranking.scores)):
        return pairs
    return sorted(pairs, key=lambda pair: (-round(pair[1] / _SAME_SCORE), pair[0]))


def fuse(rankings: Sequence[Ranking], *, k: int, rrf_k: int) -> list[tuple[str, float]]:
    """The `k` best of several rankings of the same rows: (chunk_id, score), score descending, then chunk_id.

    The score is the sum over rankings of 1 / (rrf_k + rank), ranks from 1; a ranking without the row adds nothing
    (Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods", SIGIR 2009).
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, (chunk_id, _) in enumerate(ordered(ranking), start=1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + 1.0 / (rrf_k + rank)
    return nsmallest(k, scores.items(), key=lambda pair: (-pair[1], pair[0]))
