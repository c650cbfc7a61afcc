"""Starts, finds and stops the one Milvus Lite process of a data folder.

Lite keeps its folder to one process, and is slow to start (about 2 s), so it runs beside ours: every command of a
folder talks to the same one. It listens on the loopback interface, on a port that is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines import companion
from pipelines.errors import IndexUnavailable, LockstepError
from pipelines.home import Home
from pipelines.index.address import Address, lite_token, token_mark
from pipelines.index.lite_record import LOCK_FILE, LOG_FILE, ServerRecord, data_folder, server_version, tail

_START_SECONDS = 180.0  # replaying a log of 256 MB on a busy machine
_STOP_SECONDS = 30.0
_CONNECT_SECONDS = 2.0
_LOG_BYTES = 10 * 1024 * 1024

_lifelines: list[int] = []  # write ends; closed by the system when this process ends
# The matrix product of one query over 20,000 rows takes 1.0 ms on one thread, and 8 ms on two whenever another process
# keeps a core busy: the threads wait for each other.
_ENVIRONMENT = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The index process as it is now. `set_aside`: (collection, reason) of what it found damaged at its start."""

    running: bool
    pid: int | None
    uri: str | None
    log: Path
    set_aside: tuple[tuple[str, str], ...]


def ensure_server(home: Home, *, linger: bool = True) -> Address:
    """The address of the folder's index process, which is started if none runs, or if it runs older code.

    Args:
        home: whose `index` folder is served; created if absent.
        linger: a process started now goes on when this one ends, so that the next command finds it; else it ends
            with this one, however this one ends.

    Raises:
        IndexUnavailable: it does not start; the message says why.
    """
    folder = home.index
    record = _running(folder)
    try:
        home.claim()
    except LockstepError as error:
        raise IndexUnavailable(f"starting Milvus Lite in {folder}: {error}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        token = lite_token(folder)
        if record is None or not _usable(record, token):
            with _starting(folder):
                record = _running(folder)
                if record is not None and not _usable(record, token):
                    _stop(folder, record)
                    record = None
                return Address(record.uri if record else _start(folder, linger=linger), token)
    except OSError as error:
        raise IndexUnavailable(f"starting Milvus Lite in {folder}: {error}; make the folder writable") from error
    return Address(record.uri, token)


def _usable(record: ServerRecord, token: str) -> bool:
    """Whether that process runs today's code and asks for today's token."""
    return record.version == server_version() and record.token_mark == token_mark(token)


def stop_server(home: Home) -> bool:
    """End the folder's index process, with everything on disk; False when none ran.

    Raises:
        IndexUnavailable: it does not end.
    """
    record = ServerRecord.read(home.index)
    if record is None or not record.alive:
        return False
    with _starting(home.index):
        _stop(home.index, record)
    companion.collect()
    return True


def server_status(home: Home) -> ServerStatus:
    """Whether the index process runs, starting nothing."""
    folder = home.index
    record = _running(folder)
    return ServerStatus(
        running=record is not None,
        pid=record.pid if record else None,
        uri=record.uri if record else None,
        log=folder / LOG_FILE,
        set_aside=tuple((entry["collection"], entry["reason"]) for entry in record.set_aside) if record else (),
    )


def _running(folder: Path) -> ServerRecord | None:
    record = ServerRecord.read(folder)
    if record is None or not record.alive:
        return None
    try:
        socket.create_connection(record.address, timeout=_CONNECT_SECONDS).close()
    except OSError:
        return None
    return record


@contextlib.contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """Held while the process is started or stopped, so that two commands at once start one."""
    with (folder / LOCK_FILE).open("a") as lock:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise IndexUnavailable(
                        f"starting Milvus Lite in {folder}: another command has been starting it for "
                        f"{_START_SECONDS:.0f} s; look at {folder / LOG_FILE}, end that command, and run this one again"
                    ) from None
                time.sleep(0.05)
        yield


def _start(folder: Path, *, linger: bool) -> str:
    log = folder / LOG_FILE
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
    report, report_to = os.pipe()
    kept = [report_to]
    arguments = [str(folder), "--report-to", str(report_to)]
    if not linger:
        lifeline, held = os.pipe()
        _lifelines.append(held)
        kept.append(lifeline)
        arguments += ["--lifeline", str(lifeline)]
    with log.open("ab") as stream:
        process = companion.start_module(
            "pipelines.index.lite", arguments, output=stream, environment=_ENVIRONMENT, keep=kept
        )
    for descriptor in kept:
        os.close(descriptor)
    try:
        answer = _read_report(report)
    finally:
        os.close(report)
    if "uri" in answer:
        return answer["uri"]
    process.kill()
    process.wait()
    raise IndexUnavailable(_why(folder, answer.get("error")))


def _read_report(descriptor: int) -> dict[str, str]:
    """What the new process says: its address, or why it cannot start; empty when it ended or took too long."""
    content = b""
    deadline = time.monotonic() + _START_SECONDS
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        portion = os.read(descriptor, 65_536)
        if not portion:
            break
        content += portion
    try:
        answer = json.loads(content)
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in answer.items()}


def _why(folder: Path, error: str | None) -> str:
    data = data_folder(folder)
    doing = f"starting Milvus Lite in {folder}"
    if error is None:
        return f"{doing}: it ended without a word; the end of its log {folder / LOG_FILE}:\n{tail(folder)}"
    if "DataDirLockedError" in error:
        holder = _holder(data / "LOCK")
        return (
            f"{doing}: another process{f' (pid {holder})' if holder else ''} has {data} open; end it "
            "(or, if it serves another LOCKSTEP_HOME on purpose, use that one), then run the command again"
        )
    return (
        f"{doing}: {error}; see {folder / LOG_FILE}. If the folder is beyond repair, delete {data}: "
        "`lockstep update` builds the index again from the tables, encoding nothing"
    )


def _holder(lock: Path) -> int | None:
    """The process that holds a file lock, where the system tells."""
    try:
        inode = lock.stat().st_ino
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            parts = line.split()
            if parts[1] == "FLOCK" and parts[5].rpartition(":")[2] == str(inode):
                return int(parts[4])
    except (OSError, ValueError, IndexError):
        return None
    return None


def _stop(folder: Path, record: ServerRecord) -> None:
    try:
        process = psutil.Process(record.pid)
        if process.create_time() != record.started:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()  # its log has all that it acknowledged
            process.wait(_STOP_SECONDS)
    except psutil.NoSuchProcess:
        pass
    except psutil.Error as error:
        raise IndexUnavailable(
            f"stopping Milvus Lite in {folder}: process {record.pid} does not end ({error}); end it by hand"
        ) from error
    ServerRecord.remove(folder)
