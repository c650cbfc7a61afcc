"""Every place where an update changes something that outlives the process, and ways to die there.

A point is named after what it writes, such as "append chunks", with "#2" for its second time in one run. A process
that is told to die at a point dies before the write, or half-way through it, leaving what a real kill would leave.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

How: TypeAlias = Literal["before", "half-way", "after", "soon"]
"""`soon`: some milliseconds after the write began, whatever is done then."""


def strike(by: str, victim: int | None = None) -> None:
    """Send a signal to this process, or to another one and wait for its end."""
    if victim is None:
        os.kill(os.getpid(), signal.Signals[by])
        return
    process = psutil.Process(victim)
    process.send_signal(signal.Signals[by])
    psutil.wait_procs([process])


class Points:
    """The points that this process passes, in order; patches the library once, for good.

    When it comes to the point `at`, it calls `act`, which kills it.
    """

    def __init__(
        self,
        at: str | None = None,
        how: How = "before",
        act: Callable[[], None] = lambda: strike("SIGKILL"),
        delay_seconds: float = 0.0,
    ) -> None:
        self.passed: list[str] = []
        self.waiting: threading.Timer | None = None
        self._delay_seconds = delay_seconds
        self._wanted, self._how, self._act = at, how, act
        self._seen: Counter[str] = Counter()
        self._patch_tables()
        self._patch_files()
        self._patch_index()

    def _at(self, name: str, write: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        self._seen[name] += 1
        point = name if self._seen[name] == 1 else f"{name} #{self._seen[name]}"
        self.passed.append(point)
        if point == self._wanted:
            if self._how == "soon":
                self.waiting = threading.Timer(self._delay_seconds, self._act)
                self.waiting.start()
                return write()
            if self._how == "half-way":
                half()
            done = write() if self._how == "after" else None
            self._act()
            if self._how == "after":
                return done
        return write()

    def _patch_tables(self) -> None:
        from pipelines.lake import tables

        lake = tables.Lake
        append, append_parts, merge, replace = lake.append, lake.append_parts, lake.merge, lake.replace
        write = tables.write_deltalake
        current: list[tuple[str, Path]] = []  # what is done to which table's folder

        def orphan(rows: pa.Table | pa.RecordBatchReader) -> None:
            """A data file without a commit."""
            folder = current[-1][1]
            folder.mkdir(parents=True, exist_ok=True)
            table = rows if isinstance(rows, pa.Table) else rows.read_all()
            pq.write_table(table, folder / "part-00000-left-by-a-kill.parquet")

        def at_append(self: Any, name: str, rows: pa.Table, *, run_id: str) -> int:
            if not rows.num_rows:
                return append(self, name, rows, run_id=run_id)
            current.append((f"append {name}", Path(self.uri(name))))
            try:
                return append(self, name, rows, run_id=run_id)
            finally:
                current.pop()

        def at_append_parts(self: Any, name: str, parts: Iterable[pa.Table], *, rows: int, run_id: str) -> int:
            current.append((f"append {name}", Path(self.uri(name))))
            try:
                return append_parts(self, name, parts, rows=rows, run_id=run_id)
            finally:
                current.pop()

        def at_replace(self: Any, name: str, rows: pa.Table, *, key: str, run_id: str) -> int:
            current.append((f"replace {name}", Path(self.uri(name))))
            try:
                return replace(self, name, rows, key=key, run_id=run_id)
            finally:
                current.pop()

        def at_write(target: Any, rows: pa.Table, **options: Any) -> None:
            # Inside `append` and `replace`, so that what they do before writing rows has happened.
            self_._at(current[-1][0], lambda: write(target, rows, **options), lambda: orphan(rows))

        def at_merge(self: Any, name: str, rows: pa.Table, *, key: str, run_id: str) -> int:
            if not rows.num_rows or self.version(name) < 0:
                return merge(self, name, rows, key=key, run_id=run_id)
            current.append((f"merge {name}", Path(self.uri(name))))
            try:
                done = self_._at(
                    current[-1][0], lambda: merge(self, name, rows, key=key, run_id=run_id), lambda: orphan(rows)
                )
                return int(done)
            finally:
                current.pop()

        self_ = self
        lake.append, lake.append_parts = at_append, at_append_parts  # type: ignore[method-assign]
        lake.merge, lake.replace = at_merge, at_replace  # type: ignore[method-assign]
        tables.write_deltalake = at_write  # type: ignore[assignment]

    def _patch_files(self) -> None:
        from pipelines.lake.blobs import BlobStore
        from pipelines.update import staging

        put, write_changes, write_note = BlobStore.put, staging.write_changes, staging.write_note
        self_ = self

        def at_put(self: Any, content: bytes) -> str:
            def half() -> None:
                scratch = Path(self._root) / "incoming" / "left-by-a-kill"
                scratch.parent.mkdir(parents=True, exist_ok=True)
                scratch.write_bytes(content[: len(content) // 2])

            return str(self_._at("put blob", lambda: put(self, content), half))

        def at_changes(folder: Path, rows: pa.Table, **options: Any) -> None:
            def half() -> None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "changes.arrow.new").write_bytes(b"ARROW1")

            self_._at("stage changes", lambda: write_changes(folder, rows, **options), half)

        def at_note(folder: Path, name: str, value: Any) -> None:
            def half() -> None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{name}.notes.json.new").write_text("{")

            self_._at(f"stage {name}", lambda: write_note(folder, name, value), half)

        BlobStore.put = at_put  # type: ignore[method-assign]
        staging.write_changes, staging.write_note = at_changes, at_note

    def _patch_index(self) -> None:
        from pipelines.index.milvus import MilvusIndex

        half_way: dict[str, Callable[..., Any]] = {
            "upsert": lambda index, collection, rows, *_: _plain["upsert"](
                index, collection, rows.slice(0, rows.num_rows // 2)
            ),
            "delete": lambda index, collection, ids: _plain["delete"](index, collection, ids[: len(ids) // 2]),
            # Its first act is to take the slot's record away.
            "drop": lambda index, collection: (
                _plain["exists"](index, collection)
                and index._client.alter_collection_properties(collection, {"lockstep.state": ""})
            ),
        }
        names = ("create", "drop", "upsert", "delete", "write_state", "point_alias")
        _plain = {name: getattr(MilvusIndex, name) for name in (*names, "exists")}

        def wrapped(name: str) -> Callable[..., Any]:
            def call(index: Any, *args: Any, **options: Any) -> Any:
                label = f"index {name}"
                if name == "write_state":
                    label += " building" if args[1].get("building") else " complete"
                half = half_way.get(name, lambda *_: None)
                return self._at(label, lambda: _plain[name](index, *args, **options), lambda: half(index, *args))

            return call

        for name in names:
            setattr(MilvusIndex, name, wrapped(name))


class AllPoints(Points):
    """With the small files that remember how far each source was followed and what the operator was asked."""

    def _patch_files(self) -> None:
        super()._patch_files()
        from pipelines.update.applying import approvals
        from pipelines.update.looking import progress

        change, write, settle = progress.change, approvals._write, approvals.settle
        self_ = self

        def at_change(home: Any, source: str, **values: Any) -> Any:
            def half() -> None:
                home.progress.mkdir(parents=True, exist_ok=True)
                (home.progress / f"{source}.new").write_text("{")

            return self_._at(f"progress of {source}", lambda: change(home, source, **values), half)

        def at_write(home: Any, request: Any, ids: list[str]) -> None:
            def half() -> None:
                home.approvals.mkdir(parents=True, exist_ok=True)
                (home.approvals / f"{request.source}.new").write_text("{")

            self_._at("approval" if request.approved_by else "question", lambda: write(home, request, ids), half)

        def at_settle(home: Any, source: str) -> None:
            if (home.approvals / f"{source}.json").exists():
                self_._at(f"settle {source}", lambda: settle(home, source))
            else:
                settle(home, source)

        progress.change, approvals._write, approvals.settle = at_change, at_write, at_settle

    def _patch_index(self) -> None:
        from tests.fakes.file_index import FileIndex

        halves: dict[str, Callable[..., Any]] = {
            "upsert": lambda plain, index, name, rows, *_: plain(index, name, rows.slice(0, rows.num_rows // 2)),
            "delete": lambda plain, index, name, ids: plain(index, name, ids[: len(ids) // 2]),
        }

        def wrapped(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
            def call(index: Any, *args: Any, **options: Any) -> Any:
                label = f"index {name}"
                if name == "write_state":
                    label += " building" if args[1].get("building") else " complete"

                def half() -> None:
                    if name in halves:
                        halves[name](plain, index, *args)

                return self._at(label, lambda: plain(index, *args, **options), half)

            return call

        for name in ("create", "drop", "upsert", "delete", "write_state", "point_alias"):
            setattr(FileIndex, name, wrapped(name, getattr(FileIndex, name)))
