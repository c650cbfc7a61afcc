"""The process that serves Milvus Lite on the loopback interface: `python -m pipelines.index.lite FOLDER ...`.

Not for people: `pipelines.index.server` starts, finds and stops it. It opens every collection before it answers
(Lite opens one at its first request, and two first requests at once would open two), and tells how that went as one
JSON object on an inherited pipe.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import logging
import os
import signal
import sys
import threading
from concurrent import futures
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.index.address import lite_token, token_mark
from pipelines.index.lite_record import LOG_FORMAT, ServerRecord, data_folder, process_started, server_version
from pipelines.index.lite_repair import SetAside, collections_folder, expected_rows, look_over, set_aside

logger = logging.getLogger("lockstep.index")

_STATE = "lockstep.state"  # as in `milvus`
_NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENOSPC, errno.ENOMEM)
_HOST = "127.0.0.1"
_MESSAGE_BYTES = 256 * 1024 * 1024
_WORKERS = 8
_LOOK_SECONDS = 2.0  # how often it checks that its folder still names it
_GRACE_SECONDS = 5.0


@dataclass(slots=True)
class _Opened:
    """Milvus Lite with every collection open, loaded and flushed."""

    database: Any
    problems: list[SetAside]


def open_database(folder: Path) -> _Opened:
    """Look over the data folder, open it, and check that each collection holds what its own record says.

    Raises:
        DataDirLockedError: another process has it open.
    """
    from milvus_lite import db as lite

    from pipelines.index.lite_search import ExactCollection

    data = data_folder(folder)
    aside = folder / "damaged"
    lite.Collection = ExactCollection
    database = lite.MilvusLite(str(data))
    problems = look_over(data, aside)
    for name in database.list_collections():
        reason = _open_collection(database, name)
        if reason is not None:
            database._collections.pop(("default", name), None)
            problems.append(set_aside(collections_folder(data) / name, aside, reason))
    for problem in problems:
        logger.error("set aside %s: %s", problem.collection, problem.reason)
    return _Opened(database, problems)


def _open_collection(database: Any, name: str) -> str | None:
    """Open one collection; returns why it cannot be served, if so."""
    try:
        collection = database.get_collection(name)
        collection.load()
        try:
            collection.flush()  # what the log had is searched slowly until then
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            logger.warning("%s stays in its log: %s", name, error)
        held, expected = collection.num_entities, expected_rows(collection.schema.properties, _STATE)
    except Exception as error:
        # Damage to any of its files, in any form, ends here as a reason; what is no damage is passed on.
        if isinstance(error, OSError) and error.errno in _NOT_DAMAGE:
            raise
        logger.exception("opening %s", name)
        return f"it cannot be opened: {error}"
    if expected is not None and held != expected:
        return f"it holds {held} rows, its record says {expected}"
    return None


def _serve(database: Any, token: str) -> tuple[Any, int]:
    import grpc  # type: ignore[import-untyped]  # it ships none
    from pymilvus.grpc_gen import milvus_pb2_grpc

    from pipelines.index.lite_guard import TokenGuard
    from pipelines.index.lite_service import ExactServicer

    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=_WORKERS),
        interceptors=[TokenGuard(token)],
        options=[
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            # The client pings an idle connection every 10 s; by default that counts as an attack.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(ExactServicer(database), server)
    port = server.add_insecure_port(f"{_HOST}:0")
    server.start()
    return server, port


def _run(folder: Path, report_to: int, lifeline: int | None) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        opened = open_database(folder)
        token = lite_token(folder)
        server, port = _serve(opened.database, token)
        record = ServerRecord(
            pid=os.getpid(),
            started=process_started(os.getpid()),
            uri=f"http://{_HOST}:{port}",
            version=server_version(),
            token_mark=token_mark(token),
            set_aside=[asdict(problem) for problem in opened.problems],
        )
        record.write(folder)
    except Exception as error:
        logger.exception("starting")
        _tell(report_to, {"error": f"{type(error).__name__}: {error}"})
        return 1
    gc.freeze()  # rows and postings stay: looking through them at every collection costs searches tens of ms
    gc.set_threshold(50_000, 20, 100)
    logger.info("serving %s at %s", folder, record.uri)
    _tell(report_to, {"uri": record.uri})
    if lifeline is not None:
        threading.Thread(target=_wait_for_end, args=(lifeline, stop), daemon=True).start()
    while not stop.wait(_LOOK_SECONDS):
        if ServerRecord.read(folder) != record:
            logger.info("the folder no longer names this process; ending")
            break
    server.stop(_GRACE_SECONDS).wait()
    opened.database.close()
    if ServerRecord.read(folder) == record:
        ServerRecord.remove(folder)
    return 0


def _tell(pipe: int, message: dict[str, str]) -> None:
    with os.fdopen(pipe, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(message))


def _wait_for_end(lifeline: int, stop: threading.Event) -> None:
    """Returns when the process that holds the other end of the pipe is gone, however it ended."""
    while os.read(lifeline, 1):
        pass
    stop.set()


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; exit status 1 when it could not start."""
    os.umask(0o077)  # texts of all documents, whoever may read them
    parser = argparse.ArgumentParser(prog="python -m pipelines.index.lite")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--report-to", type=int, required=True, help="file descriptor for the one-line report")
    parser.add_argument("--lifeline", type=int, default=None, help="end when this file descriptor reads as closed")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=LOG_FORMAT)
    return _run(options.folder, options.report_to, options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
