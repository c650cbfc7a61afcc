"""Starting runs warm: forked from a process that has done the imports, instead of a new Python for each run.

A run of an update imports for 6 s and works for 2. The launcher keeps one `resources.run_host` beside the Dagster
daemon; what cannot be started from it is started in Dagster's own way. `dagster.yaml` names the class; without it
everything works as before, more slowly.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

from resources.run_host import PRELOADED, QUIET

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun
    from dagster._core.launcher import LaunchRunContext

PROCESS_TAG = "lockstep/process"  # process id and start of the process that executes a run
MODULE = "pipelines.definitions"

_ROOT = Path(__file__).resolve().parents[1]
_CODE = ("assets", "jobs", "pipelines", "resources", "schedules")
_PATIENCE_SECONDS = 60.0  # for the first run, which waits until everything is imported
_GRACE_SECONDS = 10.0  # for interrupted runs, when the daemon ends

_log = logging.getLogger("dagster.lockstep.run_launcher")

OnExit = Callable[[str, int], None]


class RunHost:
    """The process that runs are forked from, seen from the daemon."""

    def __init__(self, on_exit: OnExit, modules: Sequence[str] = PRELOADED) -> None:
        self.started_at = time.time()
        self.threads: int | None = None  # of its process when it was ready; None before that
        self._on_exit = on_exit
        self._answers: dict[str, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._connection, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "resources.run_host", str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), *_python_path()]))},
            )
        threading.Thread(target=self._listen, name="lockstep-run-host", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def start(self, run_id: str, instance_ref: str) -> str:
        """Fork a run; gives the process id and its start, as the tag holds them.

        Raises:
            OSError: it could not be asked, did not answer in time, or could not fork. The run was not started.
        """
        answer: Future[dict[str, Any]] = Future()
        self._answers[run_id] = answer
        until = time.time() + _PATIENCE_SECONDS
        try:
            self._send(run_id=run_id, instance=instance_ref, until=until)
            told = answer.result(timeout=_PATIENCE_SECONDS + 5)  # by then it would refuse
        except NotInTime:
            raise OSError(f"the run host did not answer within {_PATIENCE_SECONDS:.0f} s") from None
        finally:
            self._answers.pop(run_id, None)
        if "pid" not in told:
            raise OSError(told["refused"])
        return f"{told['pid']} {told['created']}"

    def leave(self) -> None:
        """Let it end when its runs have ended; how they end is heard until then."""
        with contextlib.suppress(OSError):  # it has ended already
            self._connection.shutdown(socket.SHUT_WR)

    def stop(self) -> None:
        """Interrupt its runs, and let it end."""
        if self.threads is None:  # it is still importing, and has no runs
            self.process.terminate()
        try:
            self._send(stop=True)
            self._connection.shutdown(socket.SHUT_WR)
            self.process.wait(_GRACE_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            _log.warning(f"the run host (process {self.process.pid}) did not end in time: {error}")

    def _send(self, **message: Any) -> None:
        with self._lock:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        try:
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    self._hear(json.loads(line))
        except (OSError, ValueError) as error:
            _log.info(f"the run host is no longer heard: {error}")
        finally:
            for answer in list(self._answers.values()):
                if not answer.done():
                    answer.set_result({"refused": "the run host ended"})
            self.process.wait()

    def _hear(self, message: dict[str, Any]) -> None:
        if "exit" in message:
            self._on_exit(message["run_id"], message["exit"])
        elif "run_id" in message:
            answer = self._answers.get(message["run_id"])
            if answer is not None:
                answer.set_result(message)
        else:
            self.threads = message["threads"]
            _log.info(f"runs start warm from process {self.process.pid}")


class WarmRunLauncher(DefaultRunLauncher):
    """Forks runs of this project; all others, and those that cannot be forked, start as Dagster starts them."""

    def __init__(self, inst_data: Any = None) -> None:
        super().__init__(inst_data)
        self._host: RunHost | None = None

    def register_instance(self, instance: DagsterInstance) -> None:
        """Begin with the imports at once when this is the daemon, so that the first run finds them done."""
        super().register_instance(instance)
        if _is_daemon():
            self._running_host()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start a run, warm if that is possible."""
        run = context.dagster_run
        if _is_ours(run):
            try:
                self._start_warm(run)
            except OSError as error:
                _log.warning(f"run {run.run_id} starts in a new process, which takes seconds longer: {error}")
            else:
                return
        super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, from whichever process this is asked in."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if PROCESS_TAG not in run.tags:
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]  # Dagster leaves it untyped
        self._instance.report_run_canceling(run)
        process = _process_of(run)
        if process is None:
            self._instance.report_run_canceled(run, "Its process is gone.")
            return False
        process.send_signal(signal.SIGINT)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes: a run's process is known by its id and its start."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a run is there. Runs in Dagster's own processes are watched by the code server."""
        if PROCESS_TAG not in run.tags or _process_of(run) is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"process {run.tags[PROCESS_TAG].split()[0]} is gone")

    def dispose(self) -> None:
        """End the host, and interrupt its runs: the next update goes on where they stopped."""
        if self._host is not None:
            self._host.stop()
            self._host = None
        super().dispose()

    def _start_warm(self, run: DagsterRun) -> None:
        from dagster._serdes import serialize_value

        process = self._running_host().start(run.run_id, serialize_value(self._instance.get_ref()))
        self._instance.add_run_tags(run.run_id, {PROCESS_TAG: process})

    def _running_host(self) -> RunHost:
        host = self._host
        if host is not None and host.alive and _newest_code() > host.started_at:
            _log.info("the code has changed; runs start from a new process that has imported it")
            host.leave()
            host = None
        if host is None or not host.alive:
            self._host = host = RunHost(self._ended)
        return host

    def _ended(self, run_id: str, exit_code: int) -> None:
        """A process ended. Of a run that is not finished by then nobody else would ever say so."""
        from dagster._utils import get_run_crash_explanation

        if not self.has_instance or self._instance_weakref is None or self._instance_weakref() is None:
            return
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return
        self._instance.report_run_failed(run, get_run_crash_explanation(f"The process of run {run_id}", exit_code))


def _process_of(run: DagsterRun) -> psutil.Process | None:
    number, created = run.tags[PROCESS_TAG].split()
    try:
        process = psutil.Process(int(number))
        same = f"{process.create_time():.2f}" == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def _is_ours(run: DagsterRun) -> bool:
    """Whether the run's code is this project, loaded by its module's name and run by this Python."""
    origin = run.job_code_origin
    if origin is None or os.name != "posix":
        return False
    repository = origin.repository_origin
    pointer = repository.code_pointer
    return repository.executable_path == sys.executable and getattr(pointer, "module", None) == MODULE


def _is_daemon() -> bool:
    program = Path(sys.argv[0])
    return program.name == "dagster-daemon" or program.parent.name == "_daemon"


def _newest_code() -> float:
    """When a module of this project was last changed, in seconds since the epoch."""
    return max(path.stat().st_mtime for folder in _CODE for path in (_ROOT / folder).rglob("*.py"))


def _python_path() -> list[str]:
    return [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
