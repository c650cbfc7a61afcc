"""The process that parses: `python -m pipelines.parsing.worker`, many documents one after the other.

It has no network, no secrets in its environment, and two limits that the kernel enforces even inside C code: an alarm
that ends the process, and a ceiling on its address space. Started, fed and watched by `pool`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.parsing import frames
from pipelines.parsing.failures import MemoryLimit, ParseFailure, memory_message
from pipelines.parsing.limits import GivenLimits
from pipelines.parsing.parser import load, parse

_FORBIDDEN = frozenset(
    {
        "socket.connect",
        "socket.bind",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
    }
)


@dataclass(slots=True)
class _State:
    parsing: bool = False  # imports may look for libraries with a compiler; documents may not


_state = _State()


def main() -> None:
    """Answer requests on standard input until it is closed."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what a library prints must not get between the answers
    _harden()
    frames.write_all(answers, frames.pack({"ready": True}))
    while (message := frames.read_one(requests)) is not None:
        header, content = message
        answer = _answer(header, content, answers)
        frames.write_all(answers, frames.pack(answer))
        if answer["retire"]:
            return


def _answer(header: dict[str, Any], content: bytes, answers: int) -> dict[str, Any]:
    config = GivenLimits(**header["config"])
    media_type = header["media_type"]
    load(media_type)  # imports are start-up cost: they count against no document
    resident, virtual = _memory()
    frames.write_all(answers, frames.pack({"started": True, "resident": resident}))
    _limit_address_space(virtual + config.memory_bytes)
    started = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, config.timeout_seconds)
    retire = False
    _state.parsing = True
    try:
        result = parse(content, media_type, config)
        answer: dict[str, Any] = {
            "status": "parsed" if result.elements else "empty",
            "title": result.title,
            "metadata": json.dumps(result.metadata, ensure_ascii=False, sort_keys=True, allow_nan=False),
            "pages": result.pages,
            "elements": [asdict(element) for element in result.elements],
        }
    except ParseFailure as failure:
        answer = {"status": "failed", "error_class": type(failure).__name__, "error": str(failure)}
    except MemoryError:
        retire = True
        answer = {"status": "failed", "error_class": MemoryLimit.__name__, "error": memory_message(config)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _state.parsing = False
        _limit_address_space(resource.RLIM_INFINITY)
    return answer | {"seconds": time.monotonic() - started, "retire": retire, "resident": _memory()[0]}


def _harden() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever code runs
    sys.setrecursionlimit(3_000)

    def refuse(event: str, _args: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN and _state.parsing:
            raise PermissionError(f"{event}: a parse uses no network and starts no process")

    sys.addaudithook(refuse)


def _limit_address_space(limit: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        limit = hard if limit == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _memory() -> tuple[int, int]:
    """Resident and virtual memory of this process in bytes; (0, a generous guess) where the system has no /proc."""
    try:
        virtual, resident = Path("/proc/self/statm").read_bytes().split()[:2]
    except OSError:
        return 0, 8 << 30
    page = resource.getpagesize()
    return int(resident) * page, int(virtual) * page


if __name__ == "__main__":
    main()
