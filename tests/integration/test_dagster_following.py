"""`lockstep ui` as an operator starts it: it follows by itself, also after its daemon was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from benchmarks.following import Following, following, wait_for, wait_until_live
from pipelines.home import Home
from pipelines.index.server import stop_server
from pipelines.retrieval.asker import Asker
from pipelines.update.snapshot.verify import verify
from resources.run_launcher import PROCESS_TAG

pytestmark = pytest.mark.integration

_PATIENCE_SECONDS = 240.0
_CONFIGURATION = """
index: handbook
sources:
  - name: handbook
    kind: filesystem
    path: corpus
    access: [{match: "**", readers: ["group:staff"]}]
  - name: broken
    kind: filesystem
    path: absent
    every_seconds: 5
"""


def test_changes_become_searchable_by_themselves_and_none_is_lost_when_the_daemon_is_killed(tmp_path: Path) -> None:
    corpus, config, home = tmp_path / "corpus", tmp_path / "lockstep.yaml", Home(tmp_path / "home")
    corpus.mkdir()
    (corpus / "leave.md").write_text("# Leave\n\nEverybody has thirty days of leave.\n")
    config.write_text(_CONFIGURATION)
    try:
        with following(config, home, tmp_path / "first.log") as ui:
            wait_until_live(ui)
            (corpus / "one.md").write_text("# One\n\nThe word is zqfirst.\n")
            _found(ui, "zqfirst")
            with ui.instance() as instance:
                run = instance.get_runs(dg.RunsFilter(job_name="incremental_update"), limit=1)[0]
                assert PROCESS_TAG in run.tags
                assert run.tags["lockstep/sensor"] in {"follow_file_changes", "pending_changes"}
            (corpus / "two.md").write_text("# Two\n\nThe word is zqsecond.\n")
            _daemon(ui).kill()
            ui.process.wait(120)
            (corpus / "three.md").write_text("# Three\n\nThe word is zqthird.\n")
        with following(config, home, tmp_path / "second.log") as ui:
            for word in ("zqfirst", "zqsecond", "zqthird"):
                _found(ui, word)
            report = wait_for("the index as the tables say", lambda: _verified(ui), seconds=_PATIENCE_SECONDS)
            assert report.rows == 4
            with ui.instance() as instance:
                waiting = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
            assert len(waiting) <= 2  # at most one update and one look at the broken source
    finally:
        stop_server(home)


def _found(ui: Following, word: str) -> None:
    def look() -> Any:
        ui.check()
        hits = Asker(ui.project).ask([word], ["group:staff"], k=3, mode="bm25").hits[0]
        return [hit for hit in hits if word in hit.text]

    wait_for(word, look, seconds=_PATIENCE_SECONDS, pause=0.5)


def _verified(ui: Following) -> Any:
    report = verify(ui.project)
    return report if report.ok else None


def _daemon(ui: Following) -> psutil.Process:
    children = psutil.Process(ui.process.pid).children()
    return next(child for child in children if "dagster._daemon" in child.cmdline())
