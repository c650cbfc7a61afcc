"""Starting and stopping the process of a server: a free port, waiting until it answers, ending it by its id."""

import ctypes
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

INSTALLED = Path.home() / ".cache" / "lockstep-test-servers"
_PATIENCE_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1  # of Linux' prctl(2)


class HowToInstall(str):
    """What a skipped test says."""

    def __new__(cls, what: str) -> "HowToInstall":
        return super().__new__(cls, f"{what} is missing; run tests/integration/servers/install.sh")


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def started(
    command: Sequence[str],
    log: Path,
    answers: Callable[[], bool],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> "subprocess.Popen[bytes]":
    """The process, once it answers; its output is in `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_end_with_the_tests,
        )
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not answers():
        ended = process.poll()
        if ended is not None or time.monotonic() > deadline:
            stopped(process)
            said = log.read_text(errors="replace")[-2_000:]
            raise RuntimeError(f"{command[0]} does not answer (exit status {ended}); it said:\n{said}")
        time.sleep(0.05)
    return process


def _end_with_the_tests() -> None:
    """Even when these are killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stopped(process: "subprocess.Popen[bytes]", *, patience_seconds: float = 10.0) -> None:
    """End it, gently first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
