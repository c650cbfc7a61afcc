"""The index in memory, kept in a file: what was written is there for the next process, however this one ended."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.index.protocol import Progress
from tests.fakes.index import FakeIndex


class FileIndex(FakeIndex):
    """Each write replaces the file as a whole, so that a kill leaves the state before it or after it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.is_file():
            self._collections, self._aliases = pickle.loads(path.read_bytes())

    def _keep(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        temporary.write_bytes(pickle.dumps((self._collections, self._aliases)))
        temporary.replace(self._path)

    def create(self, collection: str, dimension: int) -> None:
        super().create(collection, dimension)
        self._keep()

    def drop(self, collection: str) -> None:
        super().drop(collection)
        self._keep()

    def point_alias(self, alias: str, collection: str) -> None:
        super().point_alias(alias, collection)
        self._keep()

    def upsert(self, collection: str, rows: pa.Table, progress: Progress | None = None) -> None:
        super().upsert(collection, rows, progress)
        self._keep()

    def delete(self, collection: str, chunk_ids: Sequence[str]) -> None:
        super().delete(collection, chunk_ids)
        self._keep()

    def write_state(self, collection: str, state: Mapping[str, Any]) -> None:
        super().write_state(collection, state)
        self._keep()
