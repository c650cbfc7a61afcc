"""A process that dies at one of its writes, played: an exception where a kill would have been."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal
from unittest.mock import patch

How = Literal["before", "half-way", "after"]


class Crash(BaseException):
    """No error that the library may handle."""


class Trap:
    """Counts the writes of one thread, and raises at the one that it is set to."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._thread, self._left, self._how = "MainThread", 0, "before"

    def arm(self, write: int, how: How, *, source: str | None = None) -> None:
        """Crash at that write from now on (1 is the next one), of the main thread or of a source's own thread."""
        self._thread = "MainThread" if source is None else f"source {source}"
        self._left, self._how = write, how

    def disarm(self) -> None:
        self._left = 0

    def at(self, name: str, write: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        """Do the write, or crash around it."""
        if not self._left or threading.current_thread().name != self._thread:
            return write()
        self._left -= 1
        if self._left:
            return write()
        self.passed.append(f"{self._how} {name}")
        if self._how == "half-way":
            half()
        elif self._how == "after":
            write()
        raise Crash(name)


_INDEX = ("create", "drop", "upsert", "delete", "write_state", "point_alias")


@contextmanager
def trapped(trap: Trap) -> Iterator[None]:
    """Every write of the library goes by the trap while the block runs."""
    from pipelines.index.milvus import MilvusIndex
    from pipelines.lake import files
    from pipelines.lake.blobs import BlobStore
    from pipelines.lake.tables import Lake
    from pipelines.update import staging
    from pipelines.update.applying import approvals
    from pipelines.update.looking import progress
    from tests.fakes.index import FakeIndex

    with ExitStack() as stack:

        def wrap(owner: Any, name: str, label: Callable[..., str], half: Callable[..., Any] | None = None) -> None:
            plain = getattr(owner, name)

            def call(*args: Any, **options: Any) -> Any:
                def begun() -> None:
                    if half is not None:
                        half(plain, *args)

                return trap.at(label(*args), lambda: plain(*args, **options), begun)

            stack.enter_context(patch.object(owner, name, call))

        for name in ("append", "append_parts", "merge", "replace", "rewrite", "compact"):
            wrap(Lake, name, lambda _self, table, *_args, _name=name: f"{_name} {table}")
        for name in ("put", "remove_unused"):
            wrap(BlobStore, name, lambda *_args, _name=name: f"{_name} blob")
        wrap(files, "remove_unneeded", lambda folder, *_args: f"remove files of {folder.name}")
        for module, name in ((staging, "write_changes"), (staging, "write_note"), (progress, "change")):
            wrap(module, name, lambda *_args, _name=name: _name)
        wrap(approvals, "_write", lambda *_: "write approval")
        halves = {
            "upsert": lambda plain, index, name, rows, *_: plain(index, name, rows.slice(0, rows.num_rows // 2)),
            "delete": lambda plain, index, name, ids: plain(index, name, ids[: len(ids) // 2]),
        }
        for index in (FakeIndex, MilvusIndex):
            for name in _INDEX:
                wrap(index, name, lambda *_args, _name=name: f"index {_name}", halves.get(name))
        yield
