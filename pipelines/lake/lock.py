"""Locks: files held by the operating system, so that a killed process never leaves one behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pipelines.errors import LakeError, WriterBusy


@contextmanager
def writer_lock(path: Path, *, run_id: str, purpose: str) -> Iterator[None]:
    """Hold the writer lock of a data folder for the length of the block.

    Raises:
        WriterBusy: somebody else holds it; the message names the process, the run and since when.
        LakeError: the folder cannot be written.
    """
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise WriterBusy(
                f"another writer holds {path}: {_describe(file.read())}; wait until it ends, or stop it, then run this "
                "again (the lock goes with the process that holds it)"
            ) from None
        holder = {"pid": os.getpid(), "run_id": run_id, "purpose": purpose, "since": datetime.now(UTC).isoformat()}
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its record
            file.truncate(0)
            file.write(json.dumps(holder))
            file.flush()
        yield


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock that others hold for moments only: wait for it.

    Raises:
        LakeError: the folder cannot be written.
    """
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise LakeError(
            f"opening the lock {path}: {error}; free space on that disk, make the folder writable, or name "
            "another one with LOCKSTEP_HOME"
        ) from error


def lock_holder(path: Path) -> str | None:
    """Who holds the writer lock, in words; None when nobody does."""
    try:
        with path.open("r", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _describe(path.read_text(encoding="utf-8"))
    return None


def _describe(record: str) -> str:
    try:
        holder = json.loads(record)
    except ValueError:
        return "its record is not readable yet"
    return f"{holder['purpose']} (run {holder['run_id']}, process {holder['pid']}, since {holder['since']})"
