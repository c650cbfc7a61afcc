"""Delta tables kept open for as long as their log is as it was. What they hold and who writes them is not known here.

Opening a table reads its log, 5 ms and more, and one update looks a hundred times; looking whether the log has changed
takes less than 0.5 ms, reading what was added to it 1 ms. The rows of a small table are kept with it: an update reads
each version several times, and from files each read costs 5 to 20 ms.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaProtocolError
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSystem, LocalFileSystem, PyFileSystem, SubTreeFileSystem

from pipelines.lake import pruning
from pipelines.lake.portions import Wanted

_T = TypeVar("_T")

_HELD_BYTES = 4 * 1024 * 1024  # of a table's files; in memory, text takes a few times as much
_CHECKPOINT = ".checkpoint."
_TICK_NANOSECONDS = 20_000_000  # of the clock by which Linux dates changes: 10 ms and less


@dataclass(frozen=True, slots=True)
class _Log:
    """What differs after a commit, and after the folder was replaced."""

    folder: int
    files: frozenset[tuple[str, int, int]]  # since the last checkpoint: name, bytes, time of the last change
    changed: int = field(compare=False)  # the folder, in nanoseconds, before that was looked at
    settled: bool = field(compare=False)  # a later change has another time

    def continues(self, earlier: _Log) -> bool:
        """Whether commits were added to that log, and nothing else happened to it."""
        return self.folder == earlier.folder and self.files > earlier.files


@dataclass(slots=True)
class _Opened:
    log: _Log
    table: DeltaTable
    facts: pa.Table | None = None
    rows: pa.Table | None = None
    held: dict[str, pa.Table] = field(default_factory=dict)  # by file, which commits leave as it is
    derived: dict[str, Any] = field(default_factory=dict)
    footers: pruning.Footers = field(default_factory=pruning.Footers)


class OpenTables:
    """Tables by their address; those in an object store are opened anew each time. Threads may share them."""

    def __init__(self, storage_options: Mapping[str, str] | None = None) -> None:
        self._lock = threading.RLock()
        self._options = dict(storage_options or {}) or None
        self._opened: dict[str, _Opened] = {}

    def table(self, uri: str) -> DeltaTable:
        """The table at its newest version; raises what `DeltaTable` raises. Its version must not be changed."""
        with self._lock:
            return self._table(uri)

    def _table(self, uri: str) -> DeltaTable:
        known = self._opened.pop(uri, None)
        log = _log(uri, known.log if known else None)
        if log is None:
            return DeltaTable(uri, storage_options=self._options)
        if known is None or (log != known.log and not log.continues(known.log)):
            known = _Opened(log, DeltaTable(uri, storage_options=self._options))
        elif log != known.log:
            known.table.update_incremental()
            known = _Opened(log, known.table, held=known.held, footers=known.footers)
        self._opened[uri] = known
        return known.table

    def facts(self, uri: str, version: int | None = None) -> pa.Table:
        """Path, bytes, rows and statistics of every file at a version (None: the newest), from the log alone."""
        with self._lock:
            table = self._table(uri)
            if version is None or version == table.version():
                known = self._opened.get(uri)
                if known is None:
                    return _facts_of(table)
                if known.facts is None:
                    known.facts = _facts_of(table)
                return known.facts
        return _facts_of(DeltaTable(uri, version=version, storage_options=self._options))

    def files(
        self,
        uri: str,
        schema: pa.Schema,
        version: int | None = None,
        *,
        key: str = "",
        wanted: Wanted | None = None,
    ) -> ds.FileSystemDataset:
        """The files at a version, read with that schema, or what they have of some keys.

        Raises what `DeltaTable` raises.
        """
        facts, footers = self.facts(uri, version), self._footers_of(uri)
        return pruning.dataset(facts, self._filesystem(uri), schema, key=key, wanted=wanted, footers=footers)

    def _footers_of(self, uri: str) -> pruning.Footers | None:
        """What is known of the files of a table while it is open; None for one that is opened anew each time."""
        with self._lock:
            self._table(uri)
            known = self._opened.get(uri)
            return known.footers if known else None

    def some(self, uri: str, schema: pa.Schema, facts: pa.Table) -> pa.Table | ds.FileSystemDataset:
        """Some of a table's files, chosen by what `facts` says of them; all rows of a small table may be held."""
        with self._lock:
            known = self._opened.get(uri)
            if known is not None and known.facts is not None and len(facts) == len(known.facts):
                return self.rows(uri, schema)
        return pruning.dataset(facts, self._filesystem(uri), schema)

    def _filesystem(self, uri: str) -> FileSystem:
        # Of local files delta-rs would hand out copies: a tenth more memory while a million rows are read.
        if "://" not in uri:
            return SubTreeFileSystem(uri, LocalFileSystem())
        return PyFileSystem(DeltaStorageHandler(uri, self._options))

    def rows(
        self,
        uri: str,
        schema: pa.Schema,
        version: int | None = None,
        *,
        key: str = "",
        wanted: Wanted | None = None,
    ) -> pa.Table | ds.FileSystemDataset:
        """The rows of those files; a small table's newest ones are read once and kept, whole, as one chunk."""
        with self._lock:
            newest = self._table(uri)
            known = self._opened.get(uri)
            if known is not None and version in (None, newest.version()):
                facts = self.facts(uri)
                if known.rows is None:
                    small = sum(facts["size_bytes"].to_pylist()) <= _HELD_BYTES
                    paths = facts["path"].to_pylist() if small else []
                    known.held = _held(uri, paths, schema, known.held)
                    known.rows = _joined(schema, known.held) if small else None
                if known.rows is not None:
                    return known.rows
        return self.files(uri, schema, version, key=key, wanted=wanted)

    def derived(self, uri: str, name: str, make: Callable[[], _T]) -> _T:
        """What `make` gives, which depends on the newest version alone: made once a version, and kept by that name."""
        with self._lock:
            self._table(uri)
            known = self._opened.get(uri)
        if known is None:
            return make()
        if name not in known.derived:
            known.derived[name] = make()
        found: _T = known.derived[name]
        return found


def _facts_of(table: DeltaTable) -> pa.Table:
    """The log's own words on each file; statistics as `min.COLUMN` and `max.COLUMN`."""
    if table.protocol().min_reader_version > 1:  # deletion vectors, renamed columns: files alone do not tell the rows
        raise DeltaProtocolError(
            f"reader version {table.protocol().min_reader_version} is required and 1 expected; write the table anew "
            "without deletion vectors and column mapping"
        )
    facts = pa.table(table.get_add_actions(flatten=True))
    paths = [unquote(path) for path in facts["path"].to_pylist()]
    return facts.set_column(facts.schema.get_field_index("path"), "path", pa.array(paths, pa.string()))


def _held(uri: str, paths: Sequence[str], schema: pa.Schema, known: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """All rows of a local table by file. Not by way of delta-rs, which takes twice the time over files this small."""
    files = ds.ParquetFileFormat()
    return {path: known[path] if path in known else _whole(f"{uri}/{path}", schema, files) for path in paths}


def _joined(schema: pa.Schema, held: dict[str, pa.Table]) -> pa.Table:
    """Those rows as one chunk, of which `held` has slices from now on: filtering ten takes five times as long."""
    rows = pa.concat_tables([schema.empty_table(), *held.values()]).combine_chunks()
    start = 0
    for path, part in held.items():
        held[path] = rows.slice(start, len(part))
        start += len(part)
    return rows


def _whole(path: str, schema: pa.Schema, form: ds.ParquetFileFormat) -> pa.Table:
    found = ds.FileSystemDataset.from_paths([path], schema=schema, format=form, filesystem=LocalFileSystem())
    return found.to_table(use_threads=False)


def _log(uri: str, known: _Log | None) -> _Log | None:
    """The log of a table in a local folder, as it is now; None when there is none to look at."""
    if "://" in uri:
        return None
    folder = Path(uri) / "_delta_log"
    try:
        now, status = time.time_ns(), folder.stat()
        changed = status.st_mtime_ns
        if known is not None and known.settled and (known.folder, known.changed) == (status.st_ino, changed):
            names = [name for name, _, _ in known.files]  # nothing came or went; to list a log of 1,000 takes 1 ms
        else:
            with os.scandir(folder) as found:
                names = [entry.name for entry in found]
            # Names begin with a version of 20 digits; what comes before the last checkpoint is not read.
            last = max((name[:20] for name in names if _CHECKPOINT in name), default="")
            names = [name for name in names if name >= last]
        files = frozenset(_facts(str(folder), name) for name in names)
        return _Log(status.st_ino, files, changed, now - changed > _TICK_NANOSECONDS)
    except OSError:
        return None


def _facts(folder: str, name: str) -> tuple[str, int, int]:
    status = os.stat(f"{folder}/{name}")  # noqa: PTH116  half the time, and it is done thousands of times an update
    return name, status.st_size, status.st_mtime_ns
