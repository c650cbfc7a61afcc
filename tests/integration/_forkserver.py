"""A process that has imported everything and begun nothing; each order runs in a forked child of it.

So a test can kill a whole update at any point, again and again, without the seconds that importing takes. An order is
one JSON line {"action": ..., "arguments": {...}}; the answer is one line {"status": wait status, "result": ...}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a child ended. `signal` is 0 when it was not killed; `error` is a traceback or None."""

    signal: int
    result: Any
    error: str | None


class ForkServer:
    """The tests' end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, name: str, /, **arguments: Any) -> Ended:
        """Run one function of `_actions` in a child of its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"action": name, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def result(self, name: str, /, **arguments: Any) -> Any:
        """The same, of an action that must end well."""
        ended = self.run(name, **arguments)
        assert ended.signal == 0 and ended.error is None, ended.error or f"killed by signal {ended.signal}"
        return ended.result


@contextmanager
def fork_server() -> Iterator[ForkServer]:
    """Start one; it ends with the block."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration._forkserver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        yield ForkServer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _child(order: dict[str, Any], answer: int) -> None:
    from tests.integration import _actions

    try:
        message = {"result": getattr(_actions, order["action"])(**order["arguments"]), "error": None}
    except BaseException:  # noqa: BLE001 - whatever it was, the test must see it
        message = {"result": None, "error": traceback.format_exc()}
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        json.dump(message, stream)
    os._exit(0)


def main() -> None:
    """Answer orders until standard input is closed."""
    from tests.integration import _actions

    _actions.prepare()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            _child(json.loads(line), send)
        os.close(send)
        with os.fdopen(receive, encoding="utf-8") as stream:
            text = stream.read()
        status = os.waitpid(child, 0)[1]
        message = json.loads(text) if text else {"result": None, "error": None}
        answers.write(json.dumps({"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, **message}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
