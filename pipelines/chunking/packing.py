"""Which units go together into one chunk.

Two steps. *Divide* cuts what is long at the strongest of its gaps (the outermost heading; among equals the one whose
following text has the highest hash), again and again, until no part is longer than a few chunks. A gap keeps its rank
whatever happens elsewhere, so an edit changes only the part that it lies in. *Pack* then finds, inside one part, the
division into chunks that costs least: full chunks, begun at headings and paragraphs rather than inside sentences, and
no heading alone at the end.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from pipelines.chunking.units import Gap, Limit, Unit

_PART_CHUNKS = 4  # longest part, in full chunks: bounds what one edit can change
_EDGE_CHUNKS = 0.5  # a cut leaves at least this much on both sides

# What it costs to begin a chunk at a gap, on the scale of a chunk's own cost: the square of the share left empty.
# A section of its own is worth a chunk from about a quarter full; below that it joins its neighbour.
_COST = {
    Gap.AFTER_HEADING: 5.0,
    Gap.CHARACTERS: 0.9,
    Gap.WORDS: 0.6,
    Gap.CLAUSE: 0.4,
    Gap.SENTENCE: 0.15,
    Gap.LINE: 0.05,
    Gap.PARAGRAPH: 0.0,
    Gap.HEADING: -0.8,
}
_COSTS = [_COST[Gap(min(gap, Gap.HEADING))] for gap in range(Gap.HEADING + 10)]

Range = tuple[int, int]  # half-open, of unit indexes


def divide(text: str, units: Sequence[Unit], chunk: Limit) -> list[Range]:
    """Parts of a document, in order, none longer than a few chunks (unless it is one unit).

    Args:
        text: the document's text.
        units: its units.
        chunk: size of a full chunk.
    """
    sizes = [max(u.tokens / chunk.tokens, (u.end - u.start) / chunk.characters) for u in units]
    if sum(sizes) <= _PART_CHUNKS:
        return [(0, len(units))] if units else []
    before = np.concatenate(([0.0], np.cumsum(sizes)))  # full chunks before each unit
    rank = np.array(
        [(u.gap << 32) | zlib.crc32(text[u.start : u.end].encode("utf-8", "surrogatepass")) for u in units], np.int64
    )
    parts: list[Range] = []
    waiting = [(0, len(units))]
    while waiting:
        lo, hi = waiting.pop()
        if hi - lo == 1 or before[hi] - before[lo] <= _PART_CHUNKS:
            parts.append((lo, hi))
            continue
        first = max(lo + 1, int(np.searchsorted(before, before[lo] + _EDGE_CHUNKS)))
        last = min(hi - 1, int(np.searchsorted(before, before[hi] - _EDGE_CHUNKS, side="right")) - 1)
        if first > last:
            first, last = lo + 1, hi - 1
        ranks = rank[first : last + 1]
        best = np.flatnonzero(ranks == ranks.max())
        cut = first + int(best[len(best) // 2])
        waiting += [(cut, hi), (lo, cut)]
    return parts


def pack(units: Sequence[Unit], part: Range, overhead: Sequence[Limit], chunk: Limit) -> list[Range]:
    """The chunks of one part, in order: the division that costs least.

    Args:
        units: the document's units.
        part: the part to pack.
        overhead: by unit of the part, what a chunk that begins with it needs beside its units.
        chunk: size of a full chunk, overhead included.
    """
    lo, hi = part
    full = float(chunk.tokens)
    cost = [0.0] * (hi - lo + 1)
    following = [hi] * (hi - lo + 1)
    for i in range(hi - 1, lo - 1, -1):
        tokens, characters = overhead[i - lo]
        characters -= units[i].start
        best = float("inf")
        for j in range(i + 1, hi + 1):
            last = units[j - 1]
            tokens += last.tokens
            if (tokens > chunk.tokens or characters + last.end > chunk.characters) and j > i + 1:
                break
            empty = 1.0 - tokens / full
            total = empty * empty + cost[j - lo]
            if j < hi:
                total += _COSTS[units[j].gap]
            if total < best:
                best = total
                following[i - lo] = j
        cost[i - lo] = best
    chunks = []
    at = lo
    while at < hi:
        chunks.append((at, following[at - lo]))
        at = following[at - lo]
    return chunks
