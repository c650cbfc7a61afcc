"""The batch sensor, ticked without a daemon: who is looked at, and what is tried again."""

from __future__ import annotations

import datetime
from pathlib import Path

import dagster as dg
import pytest

from pipelines.lake import dead_letters
from pipelines.lake.dead_letters import Failure
from pipelines.project import Project
from pipelines.update.looking import progress
from pipelines.update.looking.observe import observe
from resources.project import LockstepProject
from schedules.listing import list_sources
from tests.updating import open_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return open_project(tmp_path)


def tick(project: Project, tmp_path: Path) -> list[dict[str, str]]:
    resource = LockstepProject(config_path=str(tmp_path / "lockstep.yaml"), home=str(project.home.root))
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources={"project": resource}) as context,
    ):
        result = list_sources(context)
    assert isinstance(result, dg.SensorResult)
    return [dict(request.tags) for request in result.run_requests or ()]


def test_a_source_that_is_due_gets_a_look_of_its_own(project: Project, tmp_path: Path) -> None:
    assert [tags["lockstep/source"] for tags in tick(project, tmp_path)] == ["docs"]
    observe(project, "docs", run_id="look")
    assert tick(project, tmp_path) == []


def test_what_failed_for_a_reason_that_may_pass_is_asked_for_again_when_its_time_has_come(
    project: Project, tmp_path: Path
) -> None:
    observe(project, "docs", run_id="look")
    passing = Failure("docs", "a.md", "fetch", "Timeout", "took too long", transient=True)
    lasting = Failure("docs", "b.md", "fetch", "Forbidden", "may not be read")
    dead_letters.record(project.lake, [passing, lasting], healthy=[], run_id="run")
    tick(project, tmp_path)
    assert project.lake.read("change_events").num_rows == 0  # its time has not come
    early = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    rows = [{**row, "retry_at": row["retry_at"] and early} for row in project.lake.read("dead_letters").to_pylist()]
    dead_letters.write(project.lake, rows, run_id="run")
    progress.change(project.home, "docs", contacted_at=datetime.datetime.now(datetime.UTC))
    for _ in range(2):
        tick(project, tmp_path)
    hints = project.lake.read("change_events")
    assert (hints["uri"].to_pylist(), hints["type"].to_pylist()) == (["a.md"], ["changed"])
