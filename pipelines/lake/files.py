"""The files of a table: which ones a version or a range of its change feed needs, and removing the others.

delta-rs can vacuum too, but commits twice to say so, which would count as two new versions of the manifest; and when it
looks for stray files it takes those of the change feed for strays.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote

from deltalake import DeltaTable

_LOG = "_delta_log"
_READING = "_reading.lock"  # what begins with an underscore is no data to any Delta reader
_STRAY_SECONDS = 3_600.0  # a file that no commit names may belong to a commit that is on its way
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Unneeded:
    """Files that nothing needs. `removed` is False when readers were busy with the table all the time."""

    files: int
    size_bytes: int
    removed: bool


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep the files of a table in place while they are read: `remove_unneeded` waits, or leaves them.

    The lock goes with the process. Where the folder cannot be written, there is no lock, and no removal either.
    """
    with _lock_file(folder) as file:
        if file is not None:
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


def disk_bytes(folder: Path) -> int:
    """Bytes of everything in a table's folder: data, change feed and log, current or not."""
    return sum(size for size, _ in _sizes(folder, "*").values())


def remove_unneeded(
    folder: Path, *, versions: Iterable[int] = (), feed_since: int | None = None, dry_run: bool = False
) -> Unneeded:
    """Remove the files of a table that its newest version does not need, nor what is named here.

    Args:
        folder: of the table, local.
        versions: older versions that can still be read afterwards.
        feed_since: the change feed from the version after this one on stays whole; None: there is none.
        dry_run: only tell.
    """
    if not (folder / _LOG).is_dir():
        return Unneeded(0, 0, removed=not dry_run)
    with _lock_file(folder) as file:
        alone = dry_run or (file is not None and _alone(file))
        unneeded = _unneeded(folder, versions, feed_since)
        if alone and not dry_run:
            for path in unneeded:
                path.unlink(missing_ok=True)
    return Unneeded(len(unneeded), sum(unneeded.values()), removed=alone and not dry_run)


def _unneeded(folder: Path, versions: Iterable[int], feed_since: int | None) -> dict[Path, int]:
    newest = DeltaTable(str(folder))
    needed = _paths(newest)
    for version in set(versions) - {newest.version()}:
        needed |= _paths(DeltaTable(str(folder), version=version))
    named: set[str] = set()
    for version, actions in _commits(folder):
        for kind, action in actions:
            file = unquote(str(action["path"]))
            named.add(file)
            if feed_since is not None and version > feed_since and (kind == "cdc" or action.get("dataChange")):
                needed.add(file)
    now = time.time()
    found = {}
    for path, (size, modified) in _sizes(folder, "*.parquet").items():
        name = path.relative_to(folder).as_posix()
        stray = name not in named
        if name not in needed and not name.startswith(_LOG) and not (stray and now - modified < _STRAY_SECONDS):
            found[path] = size
    return found


def _paths(table: DeltaTable) -> set[str]:
    root = table.table_uri.rstrip("/") + "/"
    return {
        unquote(uri.removeprefix("file://").removeprefix(root.removeprefix("file://"))) for uri in table.file_uris()
    }


def _commits(folder: Path) -> Iterator[tuple[int, list[tuple[str, dict[str, object]]]]]:
    """Every commit that the log still has: its version, and the files that it adds, removes or has as change feed."""
    for path in sorted((folder / _LOG).glob("*.json")):
        if not path.stem.isdigit():
            continue
        actions = []
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            actions += [(kind, record[kind]) for kind in ("add", "remove", "cdc") if kind in record]
        yield int(path.stem), actions


def _sizes(folder: Path, pattern: str) -> dict[Path, tuple[int, float]]:
    sizes = {}
    for path in folder.rglob(pattern):
        with suppress(FileNotFoundError):  # written to its final name, or removed, just now
            if path.is_file():
                stat = path.stat()
                sizes[path] = (stat.st_size, stat.st_mtime)
    return sizes


@contextmanager
def _lock_file(folder: Path) -> Iterator[TextIO | None]:
    try:
        file = (folder / _READING).open("a", encoding="utf-8")
    except OSError:  # no such table yet, or a folder that cannot be written
        yield None
        return
    with file:
        yield file


def _alone(file: TextIO) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
