"""The jobs that maintain: letters replayed and tables pruned through Dagster, while somebody reads all the time."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.compute as pc
import pytest

from jobs.run import JobOutcome, run_job
from pipelines.definitions import defs
from pipelines.home import Home
from pipelines.lake import snapshots
from pipelines.lake.tables import Lake
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from pipelines.update.snapshot.verify import verify
from resources.instance import open_instance
from tests.updating import open_project, update

pytestmark = pytest.mark.integration


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, milvus: dict[str, str]) -> Project:
    opened = open_project(
        tmp_path,
        encoder={"model": str(tiny_model)},
        retention={"snapshots": 2},
        guard={"min_documents": 1},
        milvus=milvus,
    )
    for number in range(6):
        write(opened, f"{number}.md", f"# Page {number}\n\nThe quay wall, part {number}.\n")
    return opened


def write(project: Project, uri: str, text: str) -> None:
    (project.home.root.parent / "corpus" / uri).write_text(text, encoding="utf-8")


def run(project: Project, name: Any, **options: Any) -> JobOutcome:
    return run_job(defs, name, project.home.root.parent / "lockstep.yaml", project.home, **options)


def events_of(home: Home, run_id: str, kind: dg.DagsterEventType) -> list[Any]:
    with open_instance(home) as instance:
        return [
            record.event_log_entry.dagster_event
            for record in instance.get_records_for_run(run_id, of_type=kind).records
        ]


def test_letters_are_replayed_by_class_and_the_next_update_tries_them_again(project: Project) -> None:
    (project.home.root.parent / "corpus" / "broken.pdf").write_bytes(b"%PDF-1.7\nnot really")
    first = run(project, "incremental_update")
    assert first.success, first.message
    (letter,) = project.lake.read("dead_letters").to_pylist()
    materialized = events_of(project.home, first.run_id, dg.DagsterEventType.ASSET_MATERIALIZATION)
    told = next(
        e.step_materialization_data.materialization for e in materialized if e.asset_key == dg.AssetKey("dead_letters")
    )
    assert letter["error_class"] in told.metadata["preview"].value
    assert told.metadata["letters"].value.records[0].data["uri"] == "broken.pdf"
    asked = run(
        project, "replay_dead_letters", ops={"announce_replays": {"config": {"error_class": letter["error_class"]}}}
    )
    assert asked.success, asked.message
    assert asked.reports["replay_dead_letters"].announced == 1
    assert run(project, "incremental_update").success
    (again,) = project.lake.read("dead_letters").to_pylist()
    assert (again["status"], again["attempts"]) == ("open", 2)


def test_the_plan_shows_what_the_guard_asks_and_a_job_allows_exactly_that(project: Project) -> None:
    assert run(project, "incremental_update").success
    for number in range(4):
        (project.home.root.parent / "corpus" / f"{number}.md").unlink()
    assert "would delete 4 of 6 documents" in run(project, "incremental_update").message
    planned = run(project, "plan")
    assert planned.success, planned.message
    (made,) = events_of(project.home, planned.run_id, dg.DagsterEventType.ASSET_MATERIALIZATION)
    metadata = made.step_materialization_data.materialization.metadata
    assert next(iter(metadata)) == "notes"
    assert "would delete 4 of 6 documents" in metadata["notes"].value
    (asked,) = metadata["deletions_asked"].value.records
    assert (asked.data["source"], asked.data["documents"], asked.data["approved by"]) == ("docs", "4", "")
    config = {"approve_source_deletions": {"config": {"source": "docs", "by": "ada"}}}
    approved = run(project, "approve_deletions", ops=config)
    assert approved.success, approved.message
    assert run(project, "incremental_update").success
    statuses = project.lake.read("documents", ["status"])["status"].to_pylist()
    assert (statuses.count("active"), statuses.count("deleted")) == (2, 4)
    allowed = project.lake.read("audit_log", where=pc.field("action") == "approve_deletions").to_pylist()
    assert len(allowed) == 1
    assert "ada" in allowed[0]["detail"] + allowed[0]["actor"]


def test_maintenance_by_job_tells_the_ui_what_it_gave_back(project: Project) -> None:
    for number in range(4):
        write(project, "0.md", f"# Page\n\nThe quay wall was edited {number} times.\n")
        update(project, f"run-{number}")
    dry = run(project, "maintenance", ops={"prune_and_compact": {"config": {"dry_run": True}}})
    assert dry.success, dry.message
    done = run(project, "maintenance")
    assert done.success, done.message
    report = done.reports["maintenance"]
    assert report.pruned_rows == dry.reports["maintenance"].pruned_rows > 0
    assert report.reclaimed_bytes > 0
    observed = events_of(project.home, done.run_id, dg.DagsterEventType.ASSET_OBSERVATION)
    chunks = next(
        e.asset_observation_data.asset_observation
        for e in observed
        if e.asset_observation_data.asset_observation.asset_key == dg.AssetKey("chunks")
    )
    assert chunks.metadata["pruned_rows"].value > 0
    assert verify(project).ok


def test_questions_and_readers_go_on_while_maintenance_runs(project: Project) -> None:
    update(project, "first")
    over = threading.Event()
    counts = {"questions": 0, "reads": 0}
    problems: list[str] = []

    def watch(what: str, look: Any) -> None:
        try:
            while not over.is_set():
                look()
                counts[what] += 1
        except BaseException as error:  # noqa: BLE001 - the test tells it
            problems.append(f"{what}: {error!r}")

    asker = Asker(Project(project.config, project.home))

    def question() -> None:
        answer = asker.ask(["quay wall"], ["group:staff"], k=10, mode="bm25")
        assert len(answer.hits[0]) == 6

    lake = Lake(project.home.lake)

    def reading() -> None:
        history = snapshots.history(lake, project.alias)
        live = snapshots.live(history)
        assert live is not None
        assert lake.read("documents", version=live.manifest_version).num_rows == 6
        texts = lake.read("chunks", ["text"], where=pc.field("kind") == "text")["text"].to_pylist()
        assert sum(batch.num_rows for batch in lake.scan("embeddings", ["text_hash", "vector"])) >= 6
        assert len(texts) >= 6

    watchers = [
        threading.Thread(target=watch, args=("questions", question)),
        threading.Thread(target=watch, args=("reads", reading)),
    ]
    for watcher in watchers:
        watcher.start()
    try:
        for number in range(5):
            write(project, "0.md", f"# Page\n\nThe quay wall was edited {number} times.\n")
            update(project, f"run-{number}")
            done = run(project, "maintenance")
            assert done.success, done.message
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
    assert not problems
    assert min(counts.values()) > 10, json.dumps(counts)
