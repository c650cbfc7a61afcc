"""Deliveries on their way from the receiver to `change_events`: files that survive a kill and a power cut.

A delivery is known by its id, a hash of what was signed. `waiting/ID` is its body; `spent/ID` remembers that it was
taken, until its time stamp is too old to be accepted again. A delivery that is in both was taken and not yet put away:
it may be taken again, which adds nothing to the log.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.home import Home
from pipelines.identity import content_hash

_ID = re.compile(r"[0-9a-f]{64}")
_LEAST_FREE_BYTES = 256 * 1024 * 1024
_ABANDONED_SECONDS = 3_600.0  # a body that nobody has been writing for that long belongs to a process that died
_PRUNE_SECONDS = 60.0


class InboxFull(Exception):
    """Nothing more is taken in for now; the message says why."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One body that waits. `received_at` in seconds since 1970."""

    id: str
    received_at: float
    size_bytes: int


def delivery_id(source: str, timestamp: str, body: bytes) -> str:
    """Of what was signed: the same call has one id, whichever of several keys signed it."""
    return content_hash(f"{source}\n{timestamp}.".encode() + body)


class Inbox:
    """The deliveries of one source. Written by receivers, emptied by the stream, each of any number of processes."""

    def __init__(self, home: Home, source: str) -> None:
        self._folder = home.inbox / source
        self._waiting = self._folder / "waiting"
        self._spent = self._folder / "spent"
        self._pruned_at = 0.0

    def prepare(self) -> None:
        """Make the folders, durably, and remove bodies that a killed receiver had not finished.

        Raises:
            OSError: the data folder cannot be written.
        """
        for folder in (self._waiting, self._spent, self._folder / "incoming"):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self._folder, self._folder.parent, self._folder.parent.parent):
            _sync(folder)
        for left in os.scandir(self._folder / "incoming"):
            if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                Path(left.path).unlink(missing_ok=True)

    def put(self, delivery: str, body: bytes, *, most_waiting: int) -> bool:
        """Store a body; when this returns True it is on the disk. False: that delivery was here already.

        Raises:
            InboxFull: too many wait, or the disk is nearly full. Nothing was stored.
            OSError: it could not be written. Nothing was stored.
        """
        if self._known(delivery):
            return False
        waiting = sum(1 for _ in os.scandir(self._waiting))
        if waiting >= most_waiting:
            raise InboxFull(f"{waiting:,} deliveries wait")
        if shutil.disk_usage(self._folder).free < _LEAST_FREE_BYTES + len(body):
            raise InboxFull("the disk is nearly full")
        temporary = self._folder / "incoming" / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            try:
                (self._waiting / delivery).hardlink_to(temporary)  # of two at once, one is told that it exists
            except FileExistsError:
                self._known(delivery)
                return False
            if (self._spent / delivery).exists():  # put away since it was looked for
                (self._waiting / delivery).unlink(missing_ok=True)
                return False
            try:
                _sync(self._waiting)
            except OSError:
                (self._waiting / delivery).unlink(missing_ok=True)
                raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InboxFull("the disk is full") from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _known(self, delivery: str) -> bool:
        """Whether it is here, and will be after a power cut: the caller is told that it need not come again."""
        if (self._spent / delivery).exists():
            return True
        if not (self._waiting / delivery).exists():
            return False
        _sync(self._waiting)
        return True

    def waiting(self) -> list[Delivery]:
        """What waits, oldest first.

        Raises:
            OSError: the folder cannot be read.
        """
        found = []
        for entry in _entries(self._waiting):
            try:
                state = entry.stat()
            except FileNotFoundError:
                continue
            found.append(Delivery(entry.name, state.st_mtime_ns / 1e9, state.st_size))
        return sorted(found, key=lambda delivery: (delivery.received_at, delivery.id))

    def read(self, delivery: Delivery) -> bytes | None:
        """Its body; None when somebody else put it away meanwhile.

        Raises:
            OSError: it cannot be read.
        """
        try:
            return (self._waiting / delivery.id).read_bytes()
        except FileNotFoundError:
            return None

    def put_away(self, deliveries: Sequence[str], *, remember_seconds: float) -> None:
        """Those are durable elsewhere; that they were here is remembered for that long after they came.

        Raises:
            OSError: the folder cannot be written; they will be taken again.
        """
        for name in deliveries:
            try:
                received = (self._waiting / name).stat().st_mtime
            except FileNotFoundError:
                continue
            marker = self._spent / name
            marker.touch()
            os.utime(marker, (received, received))
        _sync(self._spent)
        for name in deliveries:
            (self._waiting / name).unlink(missing_ok=True)
        if time.monotonic() - self._pruned_at > _PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            self._prune(time.time() - remember_seconds)

    def _prune(self, before: float) -> None:
        for entry in _entries(self._spent):
            try:
                if entry.stat().st_mtime < before:
                    Path(entry.path).unlink(missing_ok=True)
            except FileNotFoundError:
                continue


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from (entry for entry in found if _ID.fullmatch(entry.name))
    except FileNotFoundError:
        return


def _sync(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
