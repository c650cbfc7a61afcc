"""Parts of a key's space, and whether some rows can lie in one: by which a table is read a piece at a time.

The keys of the large tables are hashes in hex, so ranges of equal length hold about equally many rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

KEYS: dict[str, str] = {
    "documents": "doc_id",
    "elements": "content_hash",
    "chunks": "content_hash",
    "embeddings": "text_hash",
}
"""The column by which each large table is laid out, and looked up."""

_DIGITS = 8  # of a hash; a range is never shorter than one value of so many digits
PORTION_ROWS = 32_768


class Wanted(Protocol):
    """Some of a key's values."""

    def touches(self, smallest: str | None, largest: str | None) -> bool:
        """Whether rows whose keys lie between these, both included, can be among them; None: not known.

        A bound may be cut off after some characters, as statistics are.
        """
        ...

    def among(self, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Which of these values are meant, as booleans."""
        ...


@dataclass(frozen=True, slots=True)
class Portion:
    """The keys from `start` up to but without `stop`; None: to the end."""

    start: str = ""
    stop: str | None = None

    def touches(self, smallest: str | None, largest: str | None) -> bool:
        """Whether rows whose keys lie between these can be in it."""
        if smallest is None or largest is None:
            return True
        return (self.stop is None or smallest < self.stop) and self.start[: len(largest)] <= largest

    def among(self, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Which of these keys are in it, as booleans."""
        inside = pc.greater_equal(column, self.start)
        return inside if self.stop is None else pc.and_(inside, pc.less(column, self.stop))

    def where(self, column: str) -> ds.Expression:
        """The same for a read: the rows whose key is in it."""
        inside = pc.field(column) >= self.start
        return inside if self.stop is None else inside & (pc.field(column) < self.stop)


WHOLE = Portion()


class KeySet:
    """Single keys."""

    def __init__(self, keys: pa.Array | pa.ChunkedArray | Iterable[str]) -> None:
        given = keys if isinstance(keys, pa.Array | pa.ChunkedArray) else pa.array(list(keys), pa.string())
        distinct = pc.unique(given).drop_null().cast(pa.string())
        self._values = distinct.combine_chunks() if isinstance(distinct, pa.ChunkedArray) else distinct
        self._sorted: list[str] = sorted(self._values.to_pylist())

    def __len__(self) -> int:
        return len(self._sorted)

    def touches(self, smallest: str | None, largest: str | None) -> bool:
        """Whether a row whose key lies between these can have one of them."""
        if smallest is None or largest is None:
            return bool(self._sorted)
        at = bisect_left(self._sorted, smallest)
        return at < len(self._sorted) and self._sorted[at][: len(largest)] <= largest

    def meets(self, keys: Set[str | None]) -> bool:
        """Whether one of these is one of them."""
        return not keys.isdisjoint(self._sorted)

    def among(self, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """Which of these values are one of them, as booleans."""
        return pc.is_in(column, value_set=self._values)


def portions(rows: int, *, rows_each: int = PORTION_ROWS) -> tuple[Portion, ...]:
    """Ranges of equal length that cover the key's space, so many that each holds about `rows_each` of the rows."""
    count = max(1, -(-rows // rows_each))
    bounds = [f"{number * 16**_DIGITS // count:0{_DIGITS}x}" for number in range(1, count)]
    return tuple(Portion(start, stop) for start, stop in zip(["", *bounds], [*bounds, None], strict=True))
