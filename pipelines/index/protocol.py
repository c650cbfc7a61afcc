"""What Lockstep needs of a vector index. `MilvusIndex` is one; tests use a fake that counts and fails on command."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.lake.portions import Portion

Progress = Callable[[int, int], None]
State = dict[str, Any]
Vectors = npt.NDArray[np.float32]  # shape (n, dimension)
SparseVector = Mapping[int, float]

REVISION: Final = "revision"  # key of a slot's state: a new value with every write of it


class Unfiltered(enum.Enum):
    """Says out loud that a search shall ignore who may read what."""

    UNFILTERED = "unfiltered"


UNFILTERED: Final = Unfiltered.UNFILTERED


@dataclass(frozen=True, slots=True)
class Visible:
    """Which rows somebody may be shown: those of one tenant and of these access sets, less the withheld documents.

    `withheld`: doc_ids of rows that carry one of the access sets although today's rules no longer allow it.
    """

    tenant: str
    acl_ids: tuple[int, ...]
    withheld: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there can be any such row."""
        return bool(self.acl_ids)

    def shows(self, row: Mapping[str, Any]) -> bool:
        """Whether a row with the fields tenant, acl_id and doc_id is one of them."""
        return row["tenant"] == self.tenant and row["acl_id"] in self.acl_ids and row["doc_id"] not in self.withheld


# Never None: an access filter that was forgotten must not mean "everything".
AccessFilter = Visible | Literal[Unfiltered.UNFILTERED]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best rows for one question, best first. `scores` are inner products, larger is better."""

    chunk_ids: tuple[str, ...]
    scores: tuple[float, ...]


class Index(Protocol):
    """Collections of index rows, aliases to them, and a durable state beside each.

    Every method raises `IndexUnavailable` when the index cannot be reached. One process writes at a time; many read.
    """

    def create(self, collection: str, dimension: int) -> None:
        """Make an empty collection.

        Raises:
            IndexMismatch: there is one of that name.
        """

    def drop(self, collection: str) -> None:
        """Remove a collection with its rows and state; nothing happens when there is none.

        Raises:
            IndexMismatch: an alias points at it: what readers use is never removed.
        """

    def exists(self, collection: str) -> bool:
        """Whether there is a collection (not an alias) of that name."""

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""

    def alias_target(self, alias: str) -> str | None:
        """The collection that an alias points at, which may no longer exist; None when there is no such alias."""

    def point_alias(self, alias: str, collection: str) -> None:
        """Make readers use another collection, in one step.

        Raises:
            IndexMismatch: there is no such collection.
        """

    def upsert(self, collection: str, rows: pa.Table, progress: Progress | None = None) -> None:
        """Write rows (schema `INDEX_ROW`), replacing those of the same chunk_id. In portions; not atomic.

        Raises:
            IndexMismatch: a row cannot be stored as it is; nothing of the table was written.
        """

    def delete(self, collection: str, chunk_ids: Sequence[str]) -> None:
        """Remove rows; ids that are not there are ignored."""

    def row_hashes(self, collection: str, doc_ids: Sequence[str] | None = None) -> dict[str, str]:
        """chunk_id to row_hash of what is stored now: for some documents, or all rows."""

    def rows(self, collection: str, doc_ids: Sequence[str] | None = None) -> pa.Table:
        """All scalar fields (schema `SCALAR_ROW`) of the rows of some documents, or of all, sorted by chunk_id."""

    def stored(self, collection: str, wanted: Portion | Sequence[str]) -> Iterator[pa.Table]:
        """Rows with all that is stored (schema `INDEX_ROW`), some thousands at a time, in no order.

        Vectors are read back from the index, bit for bit as it holds them; terms are ascending.

        Args:
            collection: whose.
            wanted: the documents: a range of their ids, or the ids.
        """

    def count(self, collection: str) -> int:
        """Rows stored now."""

    def wait_until_indexed(self, collection: str, timeout_seconds: float) -> None:
        """Return when all rows are durable and searched at full speed.

        Raises:
            IndexUnavailable: not within the time.
        """

    def write_state(self, collection: str, state: Mapping[str, Any]) -> None:
        """Record what a collection holds, durably, in one step. Adds `revision`, new with every write."""

    def read_state(self, collection: str) -> State | None:
        """What was recorded last; None when nothing was, or there is no such collection. Takes about a millisecond."""

    def search_dense(self, collection: str, vectors: Vectors, *, visible: AccessFilter, limit: int) -> list[Ranking]:
        """The rows nearest to each vector among those that are visible."""

    def search_sparse(
        self, collection: str, vectors: Sequence[SparseVector], *, visible: AccessFilter, limit: int
    ) -> list[Ranking]:
        """The rows with the highest BM25 score for each vector of query weights; rows without a common term never."""

    def fetch(self, collection: str, chunk_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """chunk_id to `HIT_FIELDS`, for those that are there."""
