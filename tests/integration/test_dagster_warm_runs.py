"""Runs that are forked from a process that has done the imports: what they do, and what happens when they are hit."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import WorkerStatus
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from dagster._serdes import serialize_value

from pipelines.home import Home
from resources import run_launcher
from resources.instance import prepare_instance
from resources.run_launcher import PROCESS_TAG, RunHost, WarmRunLauncher
from tests.integration import _waiting_location

pytestmark = pytest.mark.integration

MODULE = "tests.integration._waiting_location"
ROOT = str(Path(__file__).resolve().parents[2])


@dataclass
class Station:
    """An instance whose launcher has a host, and a folder in which runs leave word."""

    instance: dg.DagsterInstance
    launcher: WarmRunLauncher
    folder: Path
    exits: dict[str, int] = field(default_factory=dict)

    def start(self, job: str) -> dg.DagsterRun:
        """Launch a run as the daemon would; it has begun when this returns."""
        origin = JobPythonOrigin(
            job,
            RepositoryPythonOrigin(
                executable_path=sys.executable,
                code_pointer=ModuleCodePointer(MODULE, "defs", working_directory=ROOT),
                container_image=None,
                entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
                container_context=None,
            ),
        )
        definition = getattr(_waiting_location, job)
        run = self.instance.create_run_for_job(definition, job_code_origin=origin)
        self.launcher._start_warm(run)
        until(lambda: self.word(run))
        return self.again(run)

    def again(self, run: dg.DagsterRun) -> dg.DagsterRun:
        found = self.instance.get_run_by_id(run.run_id)
        assert found is not None
        return found

    def word(self, run: dg.DagsterRun) -> str:
        path = self.folder / run.run_id
        return path.read_text() if path.exists() else ""

    def pid(self, run: dg.DagsterRun) -> int:
        return int(self.word(run).split()[0])

    def ends(self, run: dg.DagsterRun) -> dg.DagsterRun:
        until(lambda: self.again(run).is_finished)
        return self.again(run)


def until(check: Callable[[], object], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit, "did not become true in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    folder = tmp_path_factory.mktemp("station")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LOCKSTEP_TEST_FOLDER", str(folder))
        patched.setenv("LOCKSTEP_TEST_WORD", "handed on")
        patched.setenv("PYTHONPATH", ROOT)
        patched.setattr(run_launcher, "_newest_code", lambda: 0.0)  # whoever edits a file now restarts no host
        path = prepare_instance(Home(folder / "home"))
        with dg.DagsterInstance.from_config(str(path)) as instance:
            launcher = instance.run_launcher
            assert isinstance(launcher, WarmRunLauncher)
            launcher._host = RunHost(launcher._ended, [MODULE])
            yield Station(instance, launcher, folder)


def test_a_run_is_forked_executes_and_ends(station: Station) -> None:
    run = station.ends(station.start("quick"))
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert run.tags[PROCESS_TAG].split()[0] == str(station.pid(run))
    until(lambda: not psutil.pid_exists(station.pid(run)))


def test_a_run_is_no_new_python_but_a_fork_of_what_has_imported_everything(station: Station) -> None:
    run = station.start("endless")
    host = station.launcher._host
    assert host is not None
    assert psutil.Process(station.pid(run)).ppid() == host.process.pid
    station.launcher.terminate(run.run_id)
    station.ends(run)


def test_the_host_has_one_thread_so_that_no_fork_inherits_a_lock() -> None:
    host = RunHost(lambda _run, _code: None)  # with everything that an update imports
    until(lambda: host.threads is not None, seconds=180)
    host.stop()
    assert host.threads == 1
    assert host.process.poll() is not None


def test_a_run_has_the_environment_of_the_daemon_and_not_what_the_host_needs(station: Station) -> None:
    run = station.ends(station.start("quick"))
    told = station.word(run)
    assert "handed on" in told
    assert "'OPENBLAS_NUM_THREADS': None" in told


def test_what_a_step_prints_is_kept_where_the_ui_shows_it(station: Station) -> None:
    run = station.ends(station.start("quick"))
    captured = [
        event.dagster_event.logs_captured_data
        for event in station.instance.all_logs(run.run_id)
        if event.dagster_event is not None and event.dagster_event.event_type_value == "LOGS_CAPTURED"
    ]
    manager = station.instance.compute_log_manager
    key = [run.run_id, "compute_logs", captured[0].file_key]
    until(lambda: b"told on standard output" in (manager.get_log_data(key).stdout or b""))


def test_a_run_that_is_terminated_is_canceled(station: Station) -> None:
    run = station.start("endless")
    assert station.launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    assert station.launcher.terminate(run.run_id)
    assert station.ends(run).status is dg.DagsterRunStatus.CANCELED


def test_a_run_is_terminated_from_another_process_too(station: Station) -> None:
    run = station.start("endless")
    with dg.DagsterInstance.from_ref(station.instance.get_ref()) as elsewhere:
        assert elsewhere.run_launcher.terminate(run.run_id)
    assert station.ends(run).status is dg.DagsterRunStatus.CANCELED


def test_a_run_whose_process_is_killed_has_failed_at_once(station: Station) -> None:
    run = station.start("endless")
    os.kill(station.pid(run), signal.SIGKILL)
    assert station.ends(run).status is dg.DagsterRunStatus.FAILURE
    told = [str(entry.message) for entry in station.instance.all_logs(run.run_id)]
    assert any("SIGKILL" in message for message in told), told


def test_a_daemon_that_came_later_sees_that_a_run_is_gone(station: Station) -> None:
    run = station.start("endless")
    station.launcher._host._on_exit = lambda _run, _code: None  # type: ignore[union-attr]  # as if nobody had heard
    os.kill(station.pid(run), signal.SIGKILL)
    with dg.DagsterInstance.from_ref(station.instance.get_ref()) as later:
        until(lambda: later.run_launcher.check_run_worker_health(run).status is WorkerStatus.FAILED)
    station.launcher._host._on_exit = station.launcher._ended  # type: ignore[union-attr]
    station.launcher._ended(run.run_id, -9)
    assert station.again(run).status is dg.DagsterRunStatus.FAILURE


def test_a_process_that_has_the_number_of_an_old_run_is_not_taken_for_it(station: Station) -> None:
    run = station.instance.create_run_for_job(_waiting_location.quick, tags={PROCESS_TAG: f"{os.getpid()} 1.00"})
    assert station.launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_a_run_goes_on_when_the_daemon_is_killed_and_the_host_ends_with_it(station: Station) -> None:
    host = RunHost(lambda _run, _code: None, [MODULE])
    launcher, kept = station.launcher, station.launcher._host
    launcher._host = host
    try:
        run = station.start("endless")
        host._connection.shutdown(2)  # what the end of the daemon's process does
        assert psutil.pid_exists(station.pid(run))
        assert host.process.poll() is None
        os.kill(station.pid(run), signal.SIGTERM)
        station.ends(run)
        until(lambda: host.process.poll() is not None)
    finally:
        launcher._host = kept


def test_ending_the_daemon_in_order_interrupts_its_runs_and_leaves_no_process(station: Station) -> None:
    host = RunHost(station.launcher._ended, [MODULE])
    launcher, kept = station.launcher, station.launcher._host
    launcher._host = host
    try:
        run = station.start("endless")
        host.stop()
        assert station.ends(run).status is dg.DagsterRunStatus.FAILURE
        until(lambda: not psutil.pid_exists(station.pid(run)))
        assert host.process.poll() is not None
    finally:
        launcher._host = kept


def test_an_order_that_came_too_late_is_refused(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    station.ends(station.start("quick"))
    monkeypatch.setattr(run_launcher, "_PATIENCE_SECONDS", -1.0)
    run = station.instance.create_run_for_job(_waiting_location.quick)
    host = station.launcher._host
    assert host is not None
    with pytest.raises(OSError, match="too long ago"):
        host.start(run.run_id, serialize_value(station.instance.get_ref()))
    assert station.again(run).status is dg.DagsterRunStatus.NOT_STARTED


def test_after_a_change_of_the_code_runs_start_from_a_new_host(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.ends(station.start("quick"))
    old = station.launcher._host
    assert old is not None
    monkeypatch.setattr(run_launcher, "_newest_code", lambda: old.started_at + 1)
    monkeypatch.setattr(run_launcher, "RunHost", lambda on_exit: RunHost(on_exit, [MODULE]))
    new = station.launcher._running_host()
    assert new is not old
    until(lambda: not old.alive)
