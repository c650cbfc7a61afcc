"""What every benchmark measures with: wall and processor time, memory, the machine, and how results are told."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from pipelines.embedding.model import cpu_flags
from pipelines.home import Home
from pipelines.index.server import ensure_server, server_status, stop_server

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@dataclass(slots=True)
class Took:
    """Of one measured stretch: `wall` by the clock, `cpu` of this process and its children, both in seconds.

    The processor time of the index's own process is in `index_cpu`.
    """

    wall: float = 0.0
    cpu: float = 0.0
    index_cpu: float = 0.0


@contextlib.contextmanager
def timed(home: Home | None = None) -> Iterator[Took]:
    """Measure what happens inside; `home` says whose index process is to be told apart."""
    took = Took()
    index = server_status(home).pid if home else None
    before = _processor(index)
    started = time.perf_counter()
    yield took
    took.wall = time.perf_counter() - started
    after = _processor(index)
    took.cpu, took.index_cpu = after[0] - before[0], after[1] - before[1]


def _processor(index: int | None) -> tuple[float, float]:
    """Seconds of processor time so far: of this process with its children but one, and of that one."""
    own, ended = os.times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    total, of_index = own.user + own.system + ended.ru_utime + ended.ru_stime, 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            if child.pid == index:
                of_index = times.user + times.system
            else:
                total += times.user + times.system
    return total, of_index


class PeakMemory(threading.Thread):
    """Watches resident memory: of this process, of its parse workers together, and of the index's process."""

    def __init__(self, home: Home, *, every_seconds: float = 0.1) -> None:
        super().__init__(daemon=True)
        self.own = self.workers = self.index = self.together = self._seen = 0
        self.where: list[str] = []  # what the main thread did at the peak of `together`
        self._home = home
        self._every_seconds = every_seconds
        self._ended = threading.Event()

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def since(self) -> int:
        """The largest resident size of this process and its workers together since this was asked last."""
        seen, self._seen = self._seen, 0
        return seen

    def run(self) -> None:
        """Look until the end."""
        process, index = psutil.Process(), server_status(self._home).pid
        while not self._ended.wait(self._every_seconds):
            index = index or server_status(self._home).pid  # it may be started by what is measured
            own, workers = process.memory_info().rss, 0
            if index is not None:
                with contextlib.suppress(psutil.Error):  # not always a child of this process
                    self.index = max(self.index, psutil.Process(index).memory_info().rss)
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if child.pid != index:
                        workers += child.memory_info().rss
            self.own, self.workers = max(self.own, own), max(self.workers, workers)
            self._seen = max(self._seen, own + workers)
            if own + workers > self.together:
                self.together, self.where = own + workers, _doing()


def _doing() -> list[str]:
    """The innermost calls of the main thread, as far as they are ours."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    stack = traceback.extract_stack(frame)
    ours = Path(__file__).resolve().parents[1]
    found = [one for one in stack if Path(one.filename).is_relative_to(ours) and ".venv" not in one.filename]
    return [f"{Path(one.filename).relative_to(ours)}:{one.lineno} {one.name}" for one in found[-6:]]


@contextlib.contextmanager
def scratch(keep: Path | None = None) -> Iterator[Path]:
    """A folder for one benchmark with an index process of its own; removed afterwards unless it was named."""
    folder = keep or Path(tempfile.mkdtemp(prefix="lockstep-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    home = Home(folder / "home")
    try:
        ensure_server(home, linger=False)
        yield folder
    finally:
        stop_server(home)
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def machine() -> str:
    """Processor, cores, memory and the day, for the tables in README.md."""
    name = "unknown processor"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    special = sorted(flag for flag in ("amx_bf16", "avx512_bf16", "avx512f") if flag in cpu_flags())
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    today = datetime.now(UTC).date()
    return f"{cores} cores, {name} ({', '.join(special) or 'plain'}), {memory:.0f} GiB, {today}, load {load:.1f}"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--folder", type=Path, help="work here and leave everything, instead of a temporary folder")
    return parser


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Columns in a row's order, numbers to the right, as Markdown."""
    texts = [list(header), *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(header))]
    right = [all(not isinstance(row[i], str) for row in rows) for i in range(len(header))]
    lines = [
        "| " + " | ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, widths, right, strict=True)) + " |"
        for row in texts
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def tell(result: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Print a benchmark's result."""
    if as_json:
        print(json.dumps({"machine": machine(), **result}, indent=2, default=str))
    else:
        print("\n".join([machine(), "", *lines]))
