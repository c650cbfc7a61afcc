"""Which events the log has already: their ids, read once a process and then only what was added."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.tables import Lake

_TABLE: Final = "change_events"
_CHARACTERS = 32  # of an id, which is a hash: 128 bits tell any two apart
_KIND = f"S{_CHARACTERS}"
_SORTED_FROM = 65_536  # ids; fewer new ones are kept in a set
_COLUMNS = ["sequence", "event_id"]


class KnownIds:
    """The ids in one log. 32 bytes each, so that a million take 32 MB.

    What the log no longer has because maintenance removed it stays known: it was applied, and says nothing any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._of: str | None = None
        self._through = 0
        self._sorted: npt.NDArray[np.bytes_] = np.empty(0, _KIND)
        self._recent: set[bytes] = set()

    def without(self, lake: Lake, ids: list[str]) -> list[str]:
        """Those of the ids that the log does not have; nobody may append to it meanwhile."""
        with self._lock:
            self._follow(lake)
            short = np.array([one[:_CHARACTERS] for one in ids], _KIND)
            at = np.searchsorted(self._sorted, short)
            inside = at < len(self._sorted)
            known = np.zeros(len(ids), np.bool_)
            known[inside] = self._sorted[at[inside]] == short[inside]
            return [one for one, old, key in zip(ids, known, short, strict=True) if not old and key not in self._recent]

    def _follow(self, lake: Lake) -> None:
        """Read what was added since; everything, where the log is not the one that was read before."""
        identity = lake.identity(_TABLE)
        rows = lake.after(_TABLE, _COLUMNS, by="sequence", value=self._through, inclusive=True)
        continues = identity == self._of and (
            self._through == 0 or pc.any(pc.equal(rows["sequence"], self._through)).as_py()
        )
        if not continues:
            self._forget()
            self._of = identity
            rows = lake.read(_TABLE, _COLUMNS)
        self._add(rows["event_id"].to_pylist() if len(rows) <= _SORTED_FROM else _listed(rows))
        self._through = max(self._through, pc.max(rows["sequence"]).as_py() or 0)

    def _add(self, ids: Iterable[str]) -> None:
        self._recent.update(one[:_CHARACTERS].encode() for one in ids)
        if len(self._recent) > _SORTED_FROM:
            self._sorted = np.unique(np.concatenate([self._sorted, np.array(list(self._recent), _KIND)]))
            self._recent = set()


def _listed(rows: pa.Table) -> Iterable[str]:
    for chunk in rows["event_id"].chunks:
        yield from chunk.to_pylist()
