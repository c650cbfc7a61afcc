"""`lockstep ui` on a scratch installation, as `make ui` starts it, and what its runs say about where the time goes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from pipelines.home import Home
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from resources.instance import ui_environment

_START_SECONDS = 300.0
_LOOK_SECONDS = 0.05
_END_SECONDS = 60.0
_OF_THE_UI = (["-m", "dagster_webserver"], ["-m", "dagster._daemon"], ["-m", "resources.run_host"])


def wait_for(what: str, check: Callable[[], Any], *, seconds: float, pause: float = _LOOK_SECONDS) -> Any:
    """The first true answer of `check`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = check()
        if found:
            return found
        time.sleep(pause)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


@dataclass
class Following:
    """An installation whose UI runs."""

    config: Path
    home: Home
    process: subprocess.Popen[bytes]
    log: Path
    principals: list[str] = field(default_factory=lambda: ["group:staff"])

    @property
    def project(self) -> Project:
        """Opened anew: another process writes."""
        return Project.open(self.config, self.home)

    def asker(self) -> Asker:
        """Asks the live index as a reader does."""
        return Asker(self.project)

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Its Dagster instance, to read events from."""
        os.environ["DAGSTER_HOME"] = str(self.home.dagster)
        with dg.DagsterInstance.get() as instance:
            yield instance

    def check(self) -> None:
        """Raise when the UI has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"`lockstep ui` ended with {self.process.returncode}; see {self.log}")


@contextlib.contextmanager
def following(config: Path, home: Home, log: Path, environ: dict[str, str] | None = None) -> Iterator[Following]:
    """Start the UI and end it with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("lockstep")), "ui", "--config", str(config), "--port", str(port)]
    environment = {**os.environ, **ui_environment(home, config), **(environ or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            yield Following(config, home, process, log)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the UI; if it takes too long, also the web server and the daemon, which would outlive it."""
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    process.kill()
    process.wait()
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.cmdline()[1:3] in _OF_THE_UI:
                child.kill()


def wait_until_live(ui: Following) -> None:
    """Until the sensors have built the first snapshot, and nothing waits any more."""
    from pipelines.update.applying.pending import pending
    from pipelines.update.snapshot.verify import live_snapshot

    def built() -> bool:
        ui.check()
        project = ui.project
        if project.lake.version("index_snapshots") < 0:
            return False
        with contextlib.suppress(Exception):
            live_snapshot(project)
            return not any(one.announced or one.found for one in pending(project))
        return False

    wait_for("the first build by the sensors", built, seconds=_START_SECONDS, pause=0.5)


@dataclass(frozen=True)
class RunTimes:
    """When one update passed which stage, in seconds since the epoch."""

    run_id: str
    requested: float
    dequeued: float
    process: float
    started: float
    steps: dict[str, tuple[float, float]]
    ended: float


def run_times(instance: dg.DagsterInstance, run_id: str) -> RunTimes:
    """Read them from the run's events."""
    at: dict[str, float] = {}
    starts: dict[str, float] = {}
    steps: dict[str, tuple[float, float]] = {}
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is None:
            continue
        kind = event.event_type_value
        if kind == "ENGINE_EVENT" and "process for the run" in (event.message or "").lower():
            at.setdefault("process", entry.timestamp)
        at.setdefault(kind, entry.timestamp)
        if kind == "STEP_START":
            starts[str(event.step_key)] = entry.timestamp
        elif kind == "STEP_SUCCESS":
            steps[str(event.step_key)] = (starts[str(event.step_key)], entry.timestamp)
    enqueued = at["PIPELINE_ENQUEUED"]
    return RunTimes(
        run_id,
        requested=enqueued,
        dequeued=at.get("PIPELINE_STARTING", enqueued),
        process=at.get("process", at["PIPELINE_START"]),
        started=at["PIPELINE_START"],
        steps=steps,
        ended=at["PIPELINE_SUCCESS"],
    )


def stamp(at: datetime | None) -> float | None:
    """Seconds since the epoch."""
    return None if at is None else at.timestamp()
