"""Holding the vectors that the index has against those of the tables, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Rows = npt.NDArray[np.int64]
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class VectorDifference:
    """The first number in which one vector of a row differs. `which`: dense or sparse."""

    row: int
    which: str
    told: str


def differences(actual: pa.Table, expected: pa.Table) -> Iterator[VectorDifference]:
    """Of two tables with `dense`, `terms` and `weights`, row by row the vectors that are not the same bits.

    Weights of zero are not stored, and so not compared.
    """
    if not actual.num_rows:
        return
    yield from _dense(actual["dense"], expected["dense"])
    yield from _sparse(_Sparse.of(actual), _Sparse.of(expected))


def dense_differences(actual: pa.Table, expected: pa.ChunkedArray) -> Iterator[VectorDifference]:
    """The same for the dense vectors alone."""
    if actual.num_rows:
        yield from _dense(actual["dense"], expected)


def unusable(dense: pa.ChunkedArray, dimension: int) -> Iterator[tuple[int, int, float]]:
    """Row, length and norm of vectors that are not finite, of another dimension, or not of unit length."""
    lengths = pc.list_value_length(dense).to_numpy()
    norms = np.full(len(lengths), np.nan)
    right = np.flatnonzero(lengths == dimension)
    if len(right):
        vectors = _matrix(dense, right).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            norms[right] = np.linalg.norm(vectors, axis=1)
    for row in np.flatnonzero(~(np.abs(norms - 1.0) <= _NORM_TOLERANCE)).tolist():
        yield row, int(lengths[row]), float(norms[row])


def _matrix(column: pa.ChunkedArray, rows: Rows) -> npt.NDArray[np.float32]:
    """Vectors of one length, a row each."""
    flat = pc.list_flatten(column.take(pa.array(rows))).to_numpy()
    return np.ascontiguousarray(flat, dtype=np.float32).reshape(len(rows), -1)


def _dense(actual: pa.ChunkedArray, expected: pa.ChunkedArray) -> Iterator[VectorDifference]:
    found, wanted = (pc.list_value_length(column).to_numpy() for column in (actual, expected))
    for row in np.flatnonzero(found != wanted).tolist():
        yield VectorDifference(row, "dense", f"it has {found[row]} numbers, expected {wanted[row]}")
    for length in np.unique(found[found == wanted]):
        rows = np.flatnonzero((found == wanted) & (found == length))
        ours, theirs = _matrix(actual, rows), _matrix(expected, rows)
        unequal = ours.view(np.uint32) != theirs.view(np.uint32)
        for at in np.flatnonzero(unequal.any(axis=1)).tolist():
            number = int(unequal[at].argmax())
            told = f"number {number} is {ours[at, number]!s}, expected {theirs[at, number]!s}"
            yield VectorDifference(int(rows[at]), "dense", told)


@dataclass(frozen=True, slots=True)
class _Sparse:
    """Sparse vectors one after the other: those of row `i` are at `starts[i]:starts[i + 1]`."""

    starts: Rows
    terms: npt.NDArray[np.int64]
    weights: npt.NDArray[np.uint32]  # the bits

    @classmethod
    def of(cls, table: pa.Table) -> _Sparse:
        lengths = pc.list_value_length(table["terms"]).to_numpy()
        terms = pc.list_flatten(table["terms"]).to_numpy()
        weights = np.ascontiguousarray(pc.list_flatten(table["weights"]).to_numpy(), dtype=np.float32)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        kept = weights != 0
        starts = np.searchsorted(rows[kept], np.arange(len(lengths) + 1))
        return cls(starts, terms[kept], weights[kept].view(np.uint32))

    def entries(self, row: int) -> dict[int, int]:
        span = slice(self.starts[row], self.starts[row + 1])
        return dict(zip(self.terms[span].tolist(), self.weights[span].tolist(), strict=True))


def _sparse(actual: _Sparse, expected: _Sparse) -> Iterator[VectorDifference]:
    found, wanted = np.diff(actual.starts), np.diff(expected.starts)
    same_length = np.flatnonzero(found == wanted)
    ours, theirs = (_span(one, same_length) for one in (actual, expected))
    unequal = (actual.terms[ours] != expected.terms[theirs]) | (actual.weights[ours] != expected.weights[theirs])
    rows = np.repeat(same_length, found[same_length])
    for row in np.union1d(np.flatnonzero(found != wanted), rows[unequal]).tolist():
        yield VectorDifference(row, "sparse", _first(actual.entries(row), expected.entries(row)))


def _span(vectors: _Sparse, rows: Rows) -> Rows:
    """Where the entries of some rows are."""
    chosen = np.zeros(len(vectors.starts) - 1, dtype=bool)
    chosen[rows] = True
    return np.flatnonzero(np.repeat(chosen, np.diff(vectors.starts)))


def _first(found: dict[int, int], wanted: dict[int, int]) -> str:
    def told(entries: dict[int, int], term: int) -> str:
        return str(np.uint32(entries[term]).view(np.float32)) if term in entries else "absent"

    term = min(term for term in found.keys() | wanted.keys() if found.get(term) != wanted.get(term))
    return f"term {term} is {told(found, term)}, expected {told(wanted, term)}"
