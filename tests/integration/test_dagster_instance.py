"""The Dagster instance of a data folder: what its configuration says, and that its history is written soundly."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jobs.run import run_job
from pipelines.definitions import defs
from pipelines.home import Home
from resources.instance import open_instance, prepare_instance
from schedules.requesting import patience

pytestmark = pytest.mark.integration


def test_an_edited_instance_configuration_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    path = prepare_instance(home) / "dagster.yaml"
    path.write_text("telemetry: {enabled: false}\n# mine\n")
    prepare_instance(home)
    assert "# mine" in path.read_text()


def test_a_configuration_that_an_earlier_release_wrote_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.identity import content_hash
    from resources import instance

    path = prepare_instance(Home(tmp_path)) / "dagster.yaml"
    newest = path.read_text()
    path.write_text("telemetry: {enabled: false}\n")
    monkeypatch.setattr(instance, "_WRITTEN_BEFORE", {content_hash(path.read_bytes())})
    prepare_instance(Home(tmp_path))
    assert path.read_text() == newest


def test_runs_start_warm_the_queue_is_looked_at_each_second_and_each_sensor_has_a_thread(tmp_path: Path) -> None:
    with open_instance(Home(tmp_path)) as instance:
        assert type(instance.run_launcher).__name__ == "WarmRunLauncher"
        assert instance.run_coordinator.dequeue_interval_seconds == 1  # type: ignore[attr-defined]
        assert instance.get_sensor_settings()["use_threads"]


def test_an_instance_without_the_launcher_works_as_before(tmp_path: Path) -> None:
    path = prepare_instance(Home(tmp_path)) / "dagster.yaml"
    path.write_text("telemetry: {enabled: false}\n")
    with open_instance(Home(tmp_path)) as instance:
        assert type(instance.run_launcher).__name__ == "DefaultRunLauncher"
        assert patience(instance) < 1  # ticks take turns there, and must not wait for each other


def test_the_instance_sends_nothing_and_lets_one_writer_run_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with open_instance(home) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_monitoring_enabled
        pools = instance.get_concurrency_config().pool_config
    assert pools.default_pool_limit == 1
    assert str(pools.pool_granularity).endswith("RUN")


def test_history_written_without_waiting_is_whole_for_the_next_reader(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with open_instance(home) as instance:
        run = instance.create_run_for_job(_nothing)
        instance.report_run_failed(run, "on purpose")
    for path in home.dagster.rglob("*.db"):
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",), path
    with open_instance(home) as instance:
        (recorded,) = instance.get_runs()
    assert recorded.status is dg.DagsterRunStatus.FAILURE


def test_connections_outside_the_block_wait_for_the_disk_as_before(tmp_path: Path) -> None:
    import sqlalchemy

    with open_instance(Home(tmp_path)):
        pass
    with sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'other.db'}").connect() as connection:
        assert connection.execute(sqlalchemy.text("PRAGMA synchronous")).scalar() == 2  # FULL


def test_a_run_whose_process_was_killed_is_closed_by_the_next_command(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with open_instance(home) as instance:
        abandoned = instance.create_run_for_job(_nothing, tags={"lockstep/command_line": "999999999 1.00"})
        elsewhere = instance.create_run_for_job(_nothing)
        instance.handle_new_event(_started(abandoned))
        instance.handle_new_event(_started(elsewhere))
    run_job(defs, "verify", tmp_path / "absent.yaml", home)
    with open_instance(home) as instance:
        statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses[abandoned.run_id] is dg.DagsterRunStatus.FAILURE
    assert statuses[elsewhere.run_id] is dg.DagsterRunStatus.STARTED


@dg.job
def _nothing() -> None:
    pass


def _started(run: dg.DagsterRun) -> Any:
    from dagster._core.events import DagsterEvent, DagsterEventType
    from dagster._core.events.log import EventLogEntry

    event = DagsterEvent(event_type_value=DagsterEventType.RUN_START.value, job_name=run.job_name)
    return EventLogEntry(  # type: ignore[no-untyped-call]  # Dagster leaves it untyped
        error_info=None, level="debug", user_message="", run_id=run.run_id, timestamp=1.0, dagster_event=event
    )
