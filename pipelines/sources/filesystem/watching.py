"""The stream of the source `filesystem`: the kernel's word that something below the folder changed, as hints.

A hint says where to look and nothing of what is there; `Folder.look` sees that. What happened while nobody watched is
asked for by the first hint of a stream that is opened, which is on the whole source. The kernel and the library between
it and us lose events in known ways: each of these ends in a hint on the whole source, too, or in an error that says
what to do.
"""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from pipelines.errors import SourceError
from pipelines.lake.events import Event
from pipelines.sources.addresses.globs import PathFilter
from pipelines.sources.addresses.uris import encode_uri
from pipelines.sources.base import Check, Lag, Received
from pipelines.sources.filesystem.section import FilesystemSource

Changes = Iterable[tuple[int, str]]
"""What watchfiles tells: kind of change (1 added, 2 modified, 3 deleted) and path."""

_DEBOUNCE_MS, _STEP_MS, _TURN_MS = 500, 100, 1_000  # an editor's save takes less than a step
_REOPEN_SECONDS = 5.0  # at most that often, since opening walks all folders
_STALLED_SECONDS = 2.0  # a process that stood still for that long may have lost events
_EVENTS_A_NAME = 8  # created, opened, written, closed, renamed, ...: more for one name at once are rare
_MOST_WAITING = 10_000  # hints; a listing costs less than looking at more places than that one by one
_interrupted: set[Path] = set()
"""Folders that were not watched for a while: what happened meanwhile is asked for when they are again."""

_QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
_MOUNTS = Path("/proc/self/mountinfo")
_SILENT = ("nfs", "cifs", "smb", "9p", "fuse.", "virtiofs", "ceph", "glusterfs", "lustre", "gpfs", "afs")


def open_watch(section: FilesystemSource) -> FolderWatch | None:
    """The stream of a folder, or None where its key `watch` is off. It begins with a hint on everything.

    Raises:
        SourceError: the folder cannot be watched.
    """
    if not section.watch:
        return None
    _interrupted.add(section.path)  # whoever watched before it, or nobody, is not known here
    return FolderWatch(section)


def check_watch(section: FilesystemSource, root: bytes) -> Check:
    """Whether changes below the folder will be told, without watching it."""
    every = f"listing every {section.every_seconds:g} s"
    kind = _file_system(os.fsdecode(root))
    if kind.startswith(_SILENT):
        text = f"it lies on a file system of the kind {kind}, which tells only of changes made on this machine; "
        return Check("watch", True, text + f"others are found by {every}")
    try:
        _probe(section, root)
    except SourceError as error:
        return Check("watch", False, str(error))
    return Check("watch", True, f"changes are told at once, and found by {every} besides")


@dataclass(frozen=True, slots=True)
class _Noticed:
    at: datetime
    moment: float  # of the monotonic clock, in seconds


class _Waiting:
    """Hints that nobody took yet, each uri once; too many become one on the whole source. For several threads."""

    def __init__(self) -> None:
        self._hints: dict[str, _Noticed] = {}
        self._changed = threading.Condition()
        self._error: str | None = None

    def add(self, uris: Iterable[str]) -> None:
        now = _Noticed(datetime.now(UTC), monotonic())
        with self._changed:
            for uri in uris:
                if "" not in self._hints:
                    self._hints.setdefault(uri, now)
                if len(self._hints) > _MOST_WAITING or uri == "":
                    self._hints = {"": min(self._hints.values(), key=lambda noticed: noticed.moment, default=now)}
            self._changed.notify_all()

    def fail(self, error: str | None) -> None:
        """Watching does not work; None: it works again."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self, limit: int, wait_seconds: float) -> list[tuple[str, _Noticed]]:
        with self._changed:
            self._changed.wait_for(lambda: self._hints or self._error, timeout=wait_seconds)
            if not self._hints and self._error:
                raise SourceError(self._error)
            taken = list(self._hints.items())[:limit]
            for uri, _ in taken:
                del self._hints[uri]
            return taken

    def state(self) -> tuple[int, float]:
        """How many wait, and the moment of the oldest."""
        with self._changed:
            return len(self._hints), min((noticed.moment for noticed in self._hints.values()), default=monotonic())


class FolderWatch:
    """Watches from the moment it is made until it is closed, in a thread of its own."""

    def __init__(self, section: FilesystemSource) -> None:
        self._section = section
        self._filter = PathFilter.compile(section.include, section.exclude)
        self._waiting = _Waiting()
        self._token = uuid.uuid4().hex[:12]
        self._number = 0
        self._taken: dict[int, Received] = {}
        self._stop = threading.Event()
        try:
            opened = self._open()
        except SourceError:
            _interrupted.add(section.path)
            raise
        if section.path in _interrupted:
            _interrupted.discard(section.path)
            self._waiting.add([""])
        self._thread = threading.Thread(target=self._run, args=opened, name=f"watch {section.name}", daemon=True)
        self._thread.start()

    def receive(self, *, limit: int, wait_seconds: float) -> Sequence[Received]:
        """Hints on files and folders; those that were not acknowledged come again first.

        Raises:
            SourceError: the folder is gone, or a limit of the system is reached.
        """
        if self._taken:
            return list(self._taken.values())[:limit]
        if not self._thread.is_alive():
            raise SourceError(f"source {self._section.name!r}: watching ended unexpectedly; it starts again by itself")
        try:
            taken = self._waiting.take(limit, wait_seconds)
        except SourceError:
            _interrupted.add(self._section.path)
            raise
        for uri, noticed in taken:
            self._number += 1
            origin = f"watch:{self._token}/{self._number}"
            event = Event(self._section.name, uri, "changed", origin, subtree=True, occurred_at=noticed.at)
            self._taken[self._number] = Received((event,), (self._number, noticed.moment))
        return list(self._taken.values())

    def acknowledge(self, received: Sequence[Received]) -> None:
        """Forget those hints."""
        for message in received:
            assert isinstance(message.receipt, tuple)
            self._taken.pop(message.receipt[0], None)

    def lag(self) -> Lag:
        """Hints that are not durable yet."""
        waiting, oldest = self._waiting.state()
        for message in self._taken.values():
            assert isinstance(message.receipt, tuple)
            oldest = min(oldest, message.receipt[1])
        messages = waiting + len(self._taken)
        return Lag(messages, max(0.0, monotonic() - oldest) if messages else None)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self, notify: Any, root: bytes, identity: tuple[int, int]) -> None:
        """Follow, and whenever the watch is lost open it again: what happened in between is a hint on everything."""
        while not self._stop.is_set():
            opened_at = monotonic()
            try:
                with notify:
                    self._follow(notify, root, identity)
            except SourceError as error:
                self._waiting.fail(str(error))
            while not self._stop.wait(max(0.1, opened_at + _REOPEN_SECONDS - monotonic())):
                opened_at = monotonic()
                try:
                    notify, root, identity = self._open()
                except SourceError as error:
                    self._waiting.fail(str(error))
                    continue
                self._waiting.fail(None)
                self._waiting.add([""])
                break

    def _follow(self, notify: Any, root: bytes, identity: tuple[int, int]) -> None:
        """Turn changes into hints until the watch is lost or not wanted any more."""
        flood = _queue_length() // _EVENTS_A_NAME
        turned_at = monotonic()
        while True:
            try:
                changes = notify.watch(_DEBOUNCE_MS, _STEP_MS, _TURN_MS, self._stop)
            except RuntimeError:  # a name that is not UTF-8, or an error of the system: this watch tells no more
                return
            stalled = monotonic() - turned_at > _TURN_MS / 1_000 + _STALLED_SECONDS
            if changes == "stop" or _identity(root) != identity:
                return
            if stalled or (len(changes) > flood and not isinstance(changes, str)):
                self._waiting.add([""])  # the kernel's queue may have run over
            elif not isinstance(changes, str):
                hints = dict(self._hints(changes, root))
                self._waiting.add(uri for uri in hints if not any(above in hints for above in _folders(uri)))
                if any(hints.values()):
                    _probe(self._section, root)  # where the limit is reached, new folders are silently not watched
            turned_at = monotonic()

    def _open(self) -> tuple[Any, bytes, tuple[int, int]]:
        root = os.path.realpath(os.fsencode(self._section.path))
        identity = _identity(root)
        if identity is None:
            raise SourceError(
                f"source {self._section.name!r}: the folder {self._section.path} is not there and cannot be watched; "
                "mount it, allow reading it, or correct the key `path` of this source"
            )
        try:
            return _notify(self._section, root, all_or_nothing=True), root, identity
        except PermissionError:  # of a folder below: the listing tells of it, and the others can be watched
            notify = _notify(self._section, root, all_or_nothing=False)
            _probe(self._section, root)
            return notify, root, identity

    def _hints(self, changes: Changes, root: bytes) -> Iterator[tuple[str, bool]]:
        """Uris to look at, and whether each is a folder now."""
        kinds: dict[str, set[int]] = {}
        for kind, path in changes:
            kinds.setdefault(path, set()).add(kind)
        real: dict[bytes, bytes] = {}
        for path, of in kinds.items():
            below = _below(os.fsencode(path), root, real)
            if below is None:
                continue
            uri = encode_uri(below)
            mode = _mode(os.path.join(root, below))  # noqa: PTH118 (names are bytes)
            if self._wanted(uri, mode, came_and_went=mode is None and of >= {1, 3}):
                yield uri, mode is not None and stat.S_ISDIR(mode)

    def _wanted(self, uri: str, mode: int | None, *, came_and_went: bool) -> bool:
        """Whether a document may be there, or below it; what is gone may have been a file or a folder."""
        if not all(self._filter.enters(folder) for folder in _folders(uri)):
            return False
        if mode is None:
            return self._filter.selects(uri) or (not came_and_went and self._filter.enters(uri))
        return self._filter.enters(uri) if stat.S_ISDIR(mode) else self._filter.selects(uri)


def _folders(uri: str) -> Iterator[str]:
    """The uris of the folders that it lies in."""
    names = uri.split("/")
    return ("/".join(names[:depth]) for depth in range(1, len(names)))


def _below(path: bytes, root: bytes, real: dict[bytes, bytes]) -> bytes | None:
    """The path from the root on, without links: one folder may be told by the name of a link to it."""
    folder, name = os.path.split(path)
    if folder not in real:
        real[folder] = os.path.realpath(folder)
    start = root.rstrip(b"/") + b"/"
    whole = real[folder].rstrip(b"/") + b"/" + name
    return whole[len(start) :] if whole.startswith(start) else None


def _mode(path: bytes) -> int | None:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return None


def _identity(root: bytes) -> tuple[int, int] | None:
    """Which folder it is; None where there is none. Another one under the same name has another identity."""
    try:
        found = os.stat(root)  # noqa: PTH116 (names are bytes)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def _notify(section: FilesystemSource, root: bytes, *, all_or_nothing: bool, recursive: bool = True) -> Any:
    """A running watch of watchfiles.

    Raises:
        PermissionError: a folder below may not be read; only with `all_or_nothing`.
        SourceError: anything else.
    """
    from watchfiles._rust_notify import RustNotify

    try:
        return RustNotify([os.fsdecode(root)], False, False, 300, recursive, not all_or_nothing)
    except PermissionError:
        if all_or_nothing and recursive:
            raise
        raise SourceError(f"source {section.name!r}: {section.path} may not be read; allow reading it") from None
    except (OSError, RuntimeError, UnicodeEncodeError) as error:
        raise SourceError(_advice(section, error)) from error


def _probe(section: FilesystemSource, root: bytes) -> None:
    """Whether one more folder could be watched now.

    Raises:
        SourceError: it could not.
    """
    _notify(section, root, all_or_nothing=True, recursive=False).close()


def _advice(section: FilesystemSource, error: Exception) -> str:
    start = f"source {section.name!r}: {section.path} cannot be watched"
    end = (
        f"Until then changes are found by listing, every {section.every_seconds:g} s; `watch: false` ends this message"
    )
    if "limit" in str(error):
        return (
            f"{start}: the system's limit of watched folders is reached; raise it "
            f"(`sysctl fs.inotify.max_user_watches=1048576`). {end}"
        )
    if "os error 24" in str(error):
        return (
            f"{start}: the system's limit of watching processes, or of open files, is reached; raise it "
            f"(`sysctl fs.inotify.max_user_instances=1024`, `ulimit -n`). {end}"
        )
    return f"{start}: {error}. {end}"


def _queue_length() -> int:
    """How many events the kernel keeps for one watcher before it drops them."""
    try:
        return int(_QUEUE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 16_384


def _file_system(path: str) -> str:
    """The kind of file system that a path lies on, "" where it cannot be told."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split(" ")[4].encode().decode("unicode_escape")
        if len(mount) >= len(best) and (path == mount or path.startswith(mount.rstrip("/") + "/")):
            best, kind = mount, after.split(" ")[0]
    return kind
