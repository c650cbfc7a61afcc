"""Reading single files below a root: whole, unchanged while they were read, and never anything but ordinary files."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipelines.sources.addresses.uris import decode_uri
from pipelines.sources.base import Fetched, FetchFailure

_ATTEMPTS = 3
_PAUSE_SECONDS = 0.05  # between two attempts at a file that is being written
# Two writes within one tick of the file system's clock leave the same time stamp (git calls such a file racy). Linux
# stamps with the timer tick, at most 10 ms; whole seconds point to a system that counts in one or two seconds (FAT).
_FINE_TICK_NS = 50_000_000
_COARSE_TICK_NS = 2_000_000_000
_SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


def utc_from_nanoseconds(nanoseconds: int) -> datetime:
    """A file's time stamp in whole microseconds, held within the years that a datetime can say."""
    try:
        return min(_EPOCH + timedelta(microseconds=nanoseconds // 1_000), _LATEST)
    except OverflowError:
        return _LATEST if nanoseconds > 0 else _EPOCH


class _Changed(Exception):
    """The file was not the same before and after it was read."""


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads files of at most `max_bytes`. The clock, the wait and the way a file is opened can be replaced.

    A file written within the last tick of its time stamp is read last, after that tick: from then on any further
    write changes the stamp, so that an equal stamp really means unread changes are impossible. A file that never
    comes to rest is given without a stamp.
    """

    max_bytes: int
    open_file: Callable[[bytes, int, int | None], int] = lambda name, flags, folder: os.open(name, flags, dir_fd=folder)
    now_ns: Callable[[], int] = time.time_ns
    wait: Callable[[float], None] = time.sleep

    def read_all(self, root: bytes, uris: Iterable[str]) -> Iterator[Fetched | FetchFailure]:
        """One answer for each uri."""
        fresh: list[str] = []
        for uri in uris:
            answer = self._read(root, uri, may_wait=False)
            if answer is None:
                fresh.append(uri)
            else:
                yield answer
        for uri in fresh:
            answer = self._read(root, uri, may_wait=True)
            assert answer is not None
            yield answer

    def too_large(self, uri: str, size_bytes: int) -> str:
        """What to tell about a file above the limit."""
        return (
            f"{uri} is too large: {size_bytes:,} bytes, and `max_bytes` of its source allows {self.max_bytes:,}; "
            "raise `max_bytes`, or name the file in `exclude`"
        )

    def _read(self, root: bytes, uri: str, *, may_wait: bool) -> Fetched | FetchFailure | None:
        """The file, or None when it is fresh and `may_wait` is off."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._read_once(root, uri, may_wait=may_wait)
            except _Changed:
                if attempt < _ATTEMPTS:
                    self.wait(_PAUSE_SECONDS)
            except OSError as error:
                return _failure(uri, error)
        text = f"{uri} changed while it was read, {_ATTEMPTS} times in a row; it is read again by the next update"
        return FetchFailure(uri, "Changing", text, transient=True)

    def _read_once(self, root: bytes, uri: str, *, may_wait: bool) -> Fetched | FetchFailure | None:
        descriptor = self._open(root, uri)
        with os.fdopen(descriptor, "rb") as file:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                text = f"{uri} is no ordinary file any more and was not read; remove it, or name it in `exclude`"
                return FetchFailure(uri, "SpecialFile", text, transient=False)
            if before.st_size > self.max_bytes:
                return FetchFailure(uri, "TooLarge", self.too_large(uri, before.st_size), transient=False)
            rest_ns = self._unrest_ns(before.st_mtime_ns)
            if rest_ns and not may_wait:
                return None
            if rest_ns:
                self.wait(rest_ns / _SECOND_NS)
                before = os.fstat(descriptor)
            content = file.read(self.max_bytes + 1)
            after = os.fstat(descriptor)
        if len(content) != after.st_size or _state(before) != _state(after):
            raise _Changed
        stamped = not self._unrest_ns(after.st_mtime_ns)
        return Fetched(
            uri, content, len(content), modified_at=utc_from_nanoseconds(after.st_mtime_ns) if stamped else None
        )

    def _unrest_ns(self, modified_ns: int) -> int:
        """How long until the file's time stamp is sure to change with the next write; 0: it is now."""
        tick = _FINE_TICK_NS if modified_ns % _SECOND_NS else _COARSE_TICK_NS
        age = self.now_ns() - modified_ns
        return tick - age if -tick < age < tick else 0

    def _open(self, root: bytes, uri: str) -> int:
        """Open folder by folder, following no link: what was listed may have been replaced by one since."""
        *folders, name = decode_uri(uri).split(b"/")
        if any(part in (b"", b".", b"..") for part in (*folders, name)):
            raise OSError(errno.EINVAL, "not a path below the source's folder")
        at = self.open_file(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, None)
        try:
            for folder in folders:
                inner = self.open_file(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, at)
                os.close(at)
                at = inner
            # O_NONBLOCK: opening a pipe that took the file's place must not wait for a writer.
            return self.open_file(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, at)
        finally:
            os.close(at)


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _failure(uri: str, error: OSError) -> FetchFailure:
    reason = error.strerror or type(error).__name__
    if isinstance(error, FileNotFoundError):
        text = f"{uri} is gone since it was listed; the next update sees what became of it"
        return FetchFailure(uri, "Gone", text, transient=True)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        text = (
            f"{uri} was replaced by a symbolic link since it was listed and was not followed; the next update sees it"
        )
        return FetchFailure(uri, "Replaced", text, transient=True)
    lasting = error.errno in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENXIO, errno.ENAMETOOLONG)
    text = f"{uri} could not be read: {reason}; allow reading it, or name it in `exclude`. Its last good version stays"
    return FetchFailure(uri, "FileUnreadable", text, transient=not lasting)
