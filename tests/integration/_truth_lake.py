"""Tables of which some are real Delta tables and the others are kept in memory, so that thousands of updates fit.

In memory are tables whose rows are added by key and never merged with what streams announce; the manifest with its
change feed, the log of events, the access sets and the dead letters are always real. Some examples have only real
tables.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.lake.schemas import TABLES
from pipelines.lake.tables import Lake

IN_MEMORY = (
    "elements",
    "chunks",
    "embeddings",
    "index_snapshots",
    "term_statistics",
    "document_versions",
    "audit_log",
)


class Versions:
    """One table: what it held after each commit."""

    def __init__(self, schema: pa.Schema) -> None:
        self.states = [schema.empty_table()]
        self.times: list[datetime] = []

    @property
    def newest(self) -> int:
        return len(self.times) - 1

    def commit(self, rows: pa.Table) -> int:
        self.states.append(rows.combine_chunks())
        self.times.append(datetime.now(UTC))
        return self.newest

    def at(self, version: int | None) -> pa.Table:
        return self.states[-1] if version is None else self.states[version + 1]


class Memory(dict[str, Versions]):
    """Outlives the processes that are played."""

    def __init__(self, names: Sequence[str] = IN_MEMORY) -> None:
        super().__init__({name: Versions(TABLES[name]) for name in names})


class MixedLake(Lake):
    """A lake as the library knows it."""

    def __init__(self, root: Path | str, memory: Memory) -> None:
        super().__init__(root)
        self._memory = memory

    def version(self, name: str) -> int:
        held = self._memory.get(name)
        return super().version(name) if held is None else held.newest

    def count(self, name: str) -> int:
        held = self._memory.get(name)
        return super().count(name) if held is None else held.at(None).num_rows

    def size_bytes(self, name: str) -> int:
        held = self._memory.get(name)
        return super().size_bytes(name) if held is None else held.at(None).nbytes

    def read(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        where: ds.Expression | None = None,
        version: int | None = None,
    ) -> pa.Table:
        held = self._memory.get(name)
        if held is None:
            return super().read(name, columns, where=where, version=version)
        found = held.at(version)
        if where is not None:
            found = found.filter(where)
        return found.select(list(columns or TABLES[name].names))

    def scan(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        *,
        where: ds.Expression | None = None,
        batch_rows: int = 4096,
    ) -> Iterator[pa.RecordBatch]:
        if name not in self._memory:
            yield from super().scan(name, columns, where=where, batch_rows=batch_rows)
            return
        for batch in self.read(name, columns, where=where).to_batches(max_chunksize=batch_rows):
            if batch.num_rows:
                yield batch

    def append(self, name: str, rows: pa.Table, *, run_id: str) -> int:
        held = self._memory.get(name)
        if held is None:
            return super().append(name, rows, run_id=run_id)
        if rows.num_rows == 0:
            return held.newest
        return held.commit(pa.concat_tables([held.at(None), self._checked(name, rows)]))

    def merge(self, name: str, rows: pa.Table, *, key: str, run_id: str) -> int:
        held = self._memory.get(name)
        if held is None:
            return super().merge(name, rows, key=key, run_id=run_id)
        if rows.num_rows == 0:
            return held.newest
        rows = self._checked(name, rows)
        kept = held.at(None).filter(pc.invert(pc.is_in(held.at(None)[key], value_set=rows[key].combine_chunks())))
        return held.commit(pa.concat_tables([kept, rows]))

    def derived(self, name: str, what: str, make: Callable[[], Any]) -> Any:
        return make() if name in self._memory else super().derived(name, what, make)

    def greatest(self, name: str, column: str) -> int | None:
        held = self._memory.get(name)
        return super().greatest(name, column) if held is None else pc.max(held.at(None)[column]).as_py()

    def replace(self, name: str, rows: pa.Table, *, key: str, run_id: str) -> int:
        if name not in self._memory:
            return super().replace(name, rows, key=key, run_id=run_id)
        return self.merge(name, rows, key=key, run_id=run_id)

    def history(self, name: str, limit: int | None = None) -> list[dict[str, Any]]:
        held = self._memory.get(name)
        if held is None:
            return super().history(name, limit)
        commits = [{"version": n, "timestamp": int(at.timestamp() * 1000)} for n, at in enumerate(held.times)]
        return commits[::-1][:limit]


@contextmanager
def reading_each_version_once() -> Iterator[None]:
    """A version of a real table is read from its files once; whether there is a newer one is looked at each time.

    A read of few rows takes 3 ms, and an update makes dozens of the same versions.
    """
    held: OrderedDict[tuple[str, float, int], ds.Dataset] = OrderedDict()
    plain = Lake._dataset

    def dataset(self: Lake, name: str, version: int | None) -> ds.Dataset:
        table = self._open(name)
        first = Path(self.uri(name)) / "_delta_log" / f"{0:020}.json"
        if table is None or not first.exists():
            return plain(self, name, version)
        key = (str(first), first.stat().st_mtime, table.version() if version is None else version)
        if key not in held:
            held[key] = ds.dataset(plain(self, name, version).to_table())
            if len(held) > 64:
                held.popitem(last=False)
        return held[key]

    with patch.object(Lake, "_dataset", dataset):
        yield
