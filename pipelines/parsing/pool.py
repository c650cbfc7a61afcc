"""Worker processes that parse: started when needed, used for many documents, killed when one passes a limit.

One thread, no locks: whoever iterates over `Pool.run` does the waiting. A worker that dies or is killed costs the
document it was reading and no other; the next document gets a new worker.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pipelines.config import ParsingConfig
from pipelines.errors import LockstepError
from pipelines.parsing import frames
from pipelines.parsing.failures import Crashed, MemoryLimit, TimeLimit, memory_message

_POLL_SECONDS = 0.05  # how often memory is looked at
_START_SECONDS = 120.0  # a worker that has not begun by then is stuck; a loaded machine needs seconds
_GRACE_SECONDS = 5.0  # the worker's own alarm comes first
_MAX_REFUSED = 5  # times in a row that a worker may die before it begins, until its document is blamed
_AHEAD = 8  # small documents that a worker has at hand: it does not wait for the next while we store the last
_AHEAD_BYTES = 32 << 10  # together, well below what a pipe takes: writing must not wait for a worker that is busy
_RETIRE_RESIDENT = 768 << 20  # a worker that has grown this large between documents is replaced
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")
_FIXED = {
    "DO_NOT_TRACK": "1",
    "SCARF_NO_ANALYTICS": "true",
    "UNSTRUCTURED_DISABLE_NOTICE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "PYTHONHASHSEED": "0",  # the order of sets in a library must not change what is parsed
    "TZ": "UTC",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One document to parse; `key` comes back with the answer."""

    key: Any
    media_type: str
    content: bytes


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    incoming: frames.Incoming = field(default_factory=frames.Incoming)
    ready: bool = False
    requests: deque[Request] = field(default_factory=deque)  # the first is being read, the others are in its pipe
    submitted: float = 0.0  # the first one, or when it became the first
    started: float | None = None  # when the parse itself began, after imports
    base: int = 0  # resident bytes before the parse

    @property
    def request(self) -> Request | None:
        """The one that is being read."""
        return self.requests[0] if self.requests else None

    def takes(self, request: Request) -> bool:
        """Whether it may have that one now: it is idle, or that is small and so is what it has."""
        waiting = sum(len(one.content) for one in self.requests) + len(request.content)
        return not self.requests or (self.ready and len(self.requests) < _AHEAD and waiting <= _AHEAD_BYTES)


class Pool:
    """Use as a context manager; `run` may be called again and again."""

    def __init__(self, config: ParsingConfig) -> None:
        self._config = config
        self._limits = config.model_dump()
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._again: list[Request] = []  # the next ones: no worker was free, or theirs ended before it began them
        self._refused = 0  # workers in a row that died so

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once."""
        for worker in list(self._workers):
            self._drop(worker)
        self._again = []
        self._selector.close()

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[Request, dict[str, Any]]]:
        """Each request with the worker's answer, in the order in which they are finished.

        An answer has `status`, `seconds`, and `error_class` and `error` where it failed.

        Raises:
            LockstepError: workers cannot be started at all.
        """
        waiting = iter(requests)
        while True:
            while (request := self._again.pop() if self._again else next(waiting, None)) is not None:
                worker = self._free(request)
                if worker is None:
                    self._again.append(request)
                    break
                self._submit(worker, request)
            if not any(worker.requests for worker in self._workers):
                return
            yield from self._collect()
            yield from self._watch()

    def _free(self, request: Request) -> _Worker | None:
        """The worker that has least to do, if it may have that one too; a new one while there may be more."""
        least = min(self._workers, key=lambda worker: len(worker.requests), default=None)
        if (least is None or least.requests) and len(self._workers) < self._config.workers:
            return self._start()
        return least if least is not None and least.takes(request) else None

    def _start(self) -> _Worker:
        root = str(Path(__file__).resolve().parents[2])
        inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.parsing.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=inherited | _FIXED | {"PYTHONPATH": root},
            start_new_session=True,  # Ctrl-C reaches the parent, which ends the workers in order
        )
        worker = _Worker(process)
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker

    def _submit(self, worker: _Worker, request: Request) -> None:
        assert worker.process.stdin is not None
        if not worker.requests:
            worker.submitted, worker.started = time.monotonic(), None
        worker.requests.append(request)
        header = {"media_type": request.media_type, "config": self._limits}
        with contextlib.suppress(BrokenPipeError):  # its end is seen when its answer is read
            frames.write_all(worker.process.stdin.fileno(), frames.pack(header, request.content))

    def _collect(self) -> Iterator[tuple[Request, dict[str, Any]]]:
        for key, _ in self._selector.select(_POLL_SECONDS):
            worker: _Worker = key.data
            data = os.read(key.fd, 1 << 20)
            if not data:
                yield from self._ended(worker)
                continue
            for message, _body in worker.incoming.feed(data):
                yield from self._message(worker, message)

    def _message(self, worker: _Worker, message: dict[str, Any]) -> Iterator[tuple[Request, dict[str, Any]]]:
        if "status" not in message:
            worker.ready = True
            if message.get("started"):
                worker.started, worker.base = time.monotonic(), int(message["resident"])
                self._refused = 0
            return
        request = worker.requests.popleft() if worker.requests else None
        worker.submitted, worker.started = time.monotonic(), None
        if message.get("retire") or int(message.get("resident", 0)) > _RETIRE_RESIDENT:
            self._drop(worker)
        if request is not None:
            yield request, message

    def _ended(self, worker: _Worker) -> Iterator[tuple[Request, dict[str, Any]]]:
        """The worker closed its end: it died by itself or by its alarm."""
        code = worker.process.wait()
        request, never_ready = worker.request, not worker.ready
        seconds = time.monotonic() - (worker.started or worker.submitted)
        if request is not None:
            worker.requests.popleft()
        self._drop(worker)
        if never_ready and code != -signal.SIGKILL:
            raise LockstepError(
                f"a parse worker could not start (exit status {code}); run `{sys.executable} -m "
                "pipelines.parsing.worker` to see why, and repair the installation"
            )
        if request is None:
            return
        if worker.started is None and self._refused < _MAX_REFUSED:
            self._refused += 1
            self._again.append(request)  # killed while idle or starting: no fault of this document
            return
        if code == -signal.SIGALRM:
            yield request, self._failed(TimeLimit, self._time_message(), seconds)
        else:
            how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            yield (
                request,
                self._failed(Crashed, f"the process that read it as {request.media_type} ended with {how}", seconds),
            )

    def _watch(self) -> Iterator[tuple[Request, dict[str, Any]]]:
        """Kill what is beyond its limits. The worker's own alarm and address space limit come first as a rule."""
        now = time.monotonic()
        for worker in [w for w in self._workers if w.request is not None]:
            request = worker.request
            assert request is not None
            if worker.started is None:
                if now - worker.submitted < _START_SECONDS:
                    continue
                worker.requests.popleft()
                self._drop(worker)
                yield request, self._failed(TimeLimit, f"its worker did not begin within {_START_SECONDS:.0f} s", 0.0)
                continue
            seconds = now - worker.started
            if seconds > self._config.timeout_seconds + _GRACE_SECONDS:
                worker.requests.popleft()
                self._drop(worker)
                yield request, self._failed(TimeLimit, self._time_message(), seconds)
            elif _resident(worker.process.pid) - worker.base > self._config.memory_bytes:
                worker.requests.popleft()
                self._drop(worker)
                yield request, self._failed(MemoryLimit, memory_message(self._config), seconds)

    def _time_message(self) -> str:
        return (
            f"reading it took longer than {self._config.timeout_seconds:g} s (parsing.timeout_seconds); "
            "split the document, or raise the limit"
        )

    @staticmethod
    def _failed(reason: type[Crashed | TimeLimit | MemoryLimit], message: str, seconds: float) -> dict[str, Any]:
        return {"status": "failed", "error_class": reason.__name__, "error": message, "seconds": seconds}

    def _drop(self, worker: _Worker) -> None:
        """End a worker; what it had not begun goes to another."""
        self._again += reversed(worker.requests)
        worker.requests.clear()
        process = worker.process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(KeyError):
            self._selector.unregister(process.stdout)
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        if worker in self._workers:
            self._workers.remove(worker)


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0  # it has just ended; its pipe says so next
