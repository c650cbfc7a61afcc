"""Which rows of Milvus Lite's files count, and their sparse vectors turned round: what a search reads.

Lite decides row by row, for every request, which rows are alive: the newest version of their key, and not deleted. Here
that is decided once a generation of its files; after a flush, for the keys alone that it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

_COLUMN_ABOVE = 0.1  # share of rows from which adding a whole column is faster than adding at positions


@dataclass(frozen=True, slots=True)
class Postings:
    """Inverted lists of one segment: rows and weights of dimension `dimensions[i]` are at `starts[i]:starts[i + 1]`.

    `columns` has the weight in every row for the few dimensions that many rows have, by `i`.
    """

    dimensions: npt.NDArray[np.uint32]
    starts: Positions
    rows: npt.NDArray[np.int32]
    weights: Scores
    columns: dict[int, Scores]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Postings:
        """The lists of a segment's column of packed sparse vectors."""
        packed = column.cast(pa.binary()).combine_chunks()
        packed = packed.combine_chunks() if isinstance(packed, pa.ChunkedArray) else packed
        offsets = np.frombuffer(packed.buffers()[1], dtype=np.int32)[packed.offset : packed.offset + len(packed) + 1]
        data = packed.buffers()[2]
        content = memoryview(data)[offsets[0] : offsets[-1]] if data is not None else b""
        pairs = np.frombuffer(content, dtype=np.dtype([("dimension", "<u4"), ("weight", "<f4")]))
        rows = np.repeat(np.arange(len(packed), dtype=np.int32), np.diff(offsets) // 8)
        order = np.argsort(pairs["dimension"], kind="stable")
        dimensions, first = np.unique(pairs["dimension"][order], return_index=True)
        starts, rows, weights = np.append(first, len(pairs)), rows[order], pairs["weight"][order]
        columns = {}
        for at in np.flatnonzero(np.diff(starts) > _COLUMN_ABOVE * len(packed)).tolist():
            columns[at] = np.zeros(len(packed), dtype=np.float32)
            columns[at][rows[starts[at] : starts[at + 1]]] = weights[starts[at] : starts[at + 1]]
        return cls(dimensions, starts, rows, weights, columns)

    def scores(self, query: Mapping[int, float], rows: int) -> Scores:
        """Inner product of each row with one query; zero for rows without a common dimension."""
        total = np.zeros(rows, dtype=np.float32)
        for dimension, weight in query.items():
            at = int(np.searchsorted(self.dimensions, dimension))
            if at == len(self.dimensions) or self.dimensions[at] != dimension:
                continue
            if at in self.columns:
                total += np.float32(weight) * self.columns[at]
            else:
                span = slice(self.starts[at], self.starts[at + 1])
                total[self.rows[span]] += np.float32(weight) * self.weights[span]
        return total


@dataclass(frozen=True, slots=True)
class Part:
    """One segment and which of its rows count: the newest version of their key, and not deleted."""

    segment: Any
    live: Mask
    postings: dict[str, Postings]  # by field; filled at the first sparse search

    def postings_of(self, field: str) -> Postings:
        """The lists of a sparse field, made when they are first asked for."""
        if field not in self.postings:
            self.postings[field] = Postings.of(self.segment.table.column(field))
        return self.postings[field]


@dataclass(frozen=True, slots=True)
class Generation:
    """All rows of a collection between two flushes or compactions. Immutable but for the caches inside its parts."""

    segments: tuple[Any, ...]
    tombstones: dict[Any, int]
    parts: tuple[Part, ...]
    masks: dict[str, list[Mask]]  # by filter expression: most callers come more than once

    def holds(self, segments: tuple[Any, ...], tombstones: dict[Any, int]) -> bool:
        """Whether it is still what these files and deletions say."""
        same = len(segments) == len(self.segments) and all(a is b for a, b in zip(segments, self.segments, strict=True))
        return same and tombstones == self.tombstones


def generation_of(segments: tuple[Any, ...], tombstones: dict[Any, int], before: Generation | None) -> Generation:
    """The rows of these files; what `before` knows is taken over, so that a small flush costs what it wrote."""
    changed = None if before is None else changed_keys(segments, tombstones, before)
    if before is None or changed is None:
        return from_nothing(segments, tombstones, before)
    known = {id(part.segment): part for part in before.parts}
    parts = [known.get(id(segment)) or Part(segment, np.zeros(segment.num_rows, bool), {}) for segment in segments]
    lives: dict[int, Mask] = {}
    for key in changed:
        newest, winner = tombstones.get(key, -1), None
        for index, segment in enumerate(segments):
            row = segment.pk_to_row.get(key)
            if row is None:
                continue
            if index not in lives:
                lives[index] = parts[index].live.copy()
            lives[index][row] = False
            sequence = int(segment.seqs[row])
            if sequence > newest or (sequence == newest and winner is None):
                newest, winner = sequence, (index, row)
        if winner is not None:
            lives[winner[0]][winner[1]] = True
    taken = tuple(replace(part, live=lives.get(index, part.live)) for index, part in enumerate(parts))
    return Generation(segments, tombstones, taken, {})


def changed_keys(segments: tuple[Any, ...], tombstones: dict[Any, int], before: Generation) -> set[Any] | None:
    """Keys that were written or deleted since; None where files went, or nearly everything changed."""
    had = {id(segment) for segment in before.segments}
    new = [segment for segment in segments if id(segment) not in had]
    if len(segments) - len(new) != len(had) or not before.tombstones.keys() <= tombstones.keys():
        return None
    if any(len(segment.pk_to_row) != segment.num_rows for segment in segments):
        return None  # a key twice in one file
    changed = {key for key, sequence in tombstones.items() if before.tombstones.get(key) != sequence}
    for segment in new:
        changed.update(segment.pks)
    return changed if len(changed) * len(segments) < sum(segment.num_rows for segment in segments) else None


def from_nothing(segments: tuple[Any, ...], tombstones: dict[Any, int], before: Generation | None) -> Generation:
    """The same, by looking at every row."""
    newest: dict[Any, int] = dict(tombstones)
    for segment in segments:
        for key, sequence in zip(segment.pks, segment.seqs.tolist(), strict=True):
            if newest.get(key, -1) < sequence:
                newest[key] = sequence
    known = {id(part.segment): part.postings for part in before.parts} if before else {}
    parts = []
    taken: set[tuple[Any, int]] = set()  # a crash between two steps of a flush can leave one version in two files
    for segment in segments:
        versions = list(zip(segment.pks, segment.seqs.tolist(), strict=True))
        live = np.array([newest[key] == sequence for key, sequence in versions], dtype=bool)
        if len(segments) > 1:
            for position in np.flatnonzero(live).tolist():
                if versions[position] in taken:
                    live[position] = False
            taken.update(versions[position] for position in np.flatnonzero(live).tolist())
        parts.append(Part(segment, live, known.get(id(segment), {})))
    return Generation(segments, tombstones, tuple(parts), {})
