"""A process that has imported what a run needs and begun nothing: each run is forked from it, in milliseconds.

`python -m resources.run_host FD MODULE ...` imports the modules, then talks over the socket FD in JSON lines. It reads
{"run_id", "instance", "until"} and answers {"ready"}, {"run_id", "pid", "created"} or {"run_id", "refused"}, and later
{"run_id", "pid", "exit"}. When the other end closes, it waits for its runs and ends; {"stop": true} interrupts them
first. Who asks for runs, and what becomes of them, belongs to `resources.run_launcher`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What an update imports, found by comparing sys.modules before and after one. A module that is missing here costs its
# time in every run; one that starts a thread when it is imported must not be here (a test counts the threads).
PRELOADED = (
    "pipelines.definitions",
    "alembic.command",
    "dagster._core.storage.event_log",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.runs",
    "dagster._core.storage.schedules",
    "dagster._grpc.impl",
    "deltalake",
    "fsspec.implementations.local",
    "great_expectations",
    "pipelines.embedding.bert",
    "pipelines.index.milvus",
    "pipelines.quality.gx_engine",
    "pipelines.sources.hinted",
    "pyarrow.dataset",
    "pymilvus",
    "safetensors.torch",
    "sqlalchemy.dialects.sqlite",
    "tokenizers",
    "torch",
    "upath.implementations.local",
    "wcmatch.glob",
)

# Set for the host alone, so that importing starts no thread: OpenBLAS' workers, and jemalloc's (Arrow's and delta-rs').
QUIET = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "_RJEM_MALLOC_CONF": "background_thread:false",
}


def preload(modules: Sequence[str]) -> None:
    """Import what runs need. A module that cannot be imported is left to the run, which then says why."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            sys.stderr.write(f"run host: {name} is not preloaded: {error}\n")
    gc.collect()
    gc.freeze()  # the collector of a run touches none of these pages, so that they stay shared


def threads() -> int:
    """How many threads this process has: with more than one, a fork could inherit a lock that nobody opens."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 1


class Host:
    """Forks runs and tells how they ended. One thread, no locks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._runs: dict[int, str] = {}  # process id to run id
        self._waiting = b""
        self._open = True

    def serve(self) -> None:
        """Until the other end has closed and every run has ended."""
        awake, wake = socket.socketpair()
        wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the runs; the other end says when to stop
        self._tell(ready=True, threads=threads())
        import selectors

        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(awake, selectors.EVENT_READ)
            while self._open or self._runs:
                for key, _ in selector.select():
                    if key.fileobj is awake:
                        awake.recv(4096)
                    elif not self._read():
                        selector.unregister(self._connection)
                self._reap()

    def _read(self) -> bool:
        try:
            data = self._connection.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._open = False
            return False
        *lines, self._waiting = (self._waiting + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if order.get("stop"):
                self._interrupt()
            else:
                self._start(order)
        return True

    def _start(self, order: dict[str, Any]) -> None:
        run_id = order["run_id"]
        if time.time() > order["until"]:
            self._tell(run_id=run_id, refused="asked too long ago")
            return
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(run_id=run_id, refused=str(error))
            return
        if pid == 0:
            self._connection.close()
            _become_run(run_id, order["instance"])
        self._runs[pid] = run_id
        import psutil

        self._tell(run_id=run_id, pid=pid, created=f"{psutil.Process(pid).create_time():.2f}")

    def _reap(self) -> None:
        while self._runs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            run_id = self._runs.pop(pid, None)
            if run_id is not None:
                self._tell(run_id=run_id, pid=pid, exit=os.waitstatus_to_exitcode(status))

    def _interrupt(self) -> None:
        for pid in self._runs:
            os.kill(pid, signal.SIGTERM)

    def _tell(self, **message: Any) -> None:
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._open = False  # nobody listens any more; the runs go on, and tell the instance themselves


def _become_run(run_id: str, instance: str) -> None:
    """Execute one run in this process, and end it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in QUIET:
        os.environ.pop(name, None)
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        execute(run_id, instance)
        status = 0
    except BaseException:  # noqa: BLE001 - the end of a process; its exit status tells the launcher
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def execute(run_id: str, instance_ref: str) -> None:
    """Execute a run that the instance knows, as Dagster's own run process does."""
    import dagster as dg
    from dagster._core.definitions.reconstruct import ReconstructableJob
    from dagster._core.events import EngineEventData
    from dagster._core.instance.ref import InstanceRef
    from dagster._core.origin import JobPythonOrigin
    from dagster._grpc.impl import core_execute_run
    from dagster._serdes import deserialize_value
    from dagster._utils.hosted_user_process import recon_job_from_origin
    from dagster._utils.interrupts import capture_interrupts

    from resources.instance import quick_history

    with (
        capture_interrupts(),
        quick_history(),
        dg.DagsterInstance.from_ref(deserialize_value(instance_ref, InstanceRef)) as instance,
    ):
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert isinstance(run.job_code_origin, JobPythonOrigin)
        job: ReconstructableJob = recon_job_from_origin(run.job_code_origin)
        pid = os.getpid()
        told = EngineEventData.in_process(pid)
        instance.report_engine_event(f"Started a warm process for the run (pid: {pid}).", run, told)
        try:
            for _ in core_execute_run(job, run, instance, inject_env_vars=True):
                pass
        finally:
            instance.report_engine_event(f"Process for the run exited (pid: {pid}).", run)


def main() -> None:
    """Preload, then serve."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(connection.fileno(), False)
    preload(sys.argv[2:])
    Host(connection).serve()


if __name__ == "__main__":
    main()
