"""Maintenance that is killed anywhere breaks nothing, and the next one finishes it."""

from __future__ import annotations

import pickle
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.config import load_config
from pipelines.home import Home
from pipelines.lake import blobs, snapshots
from pipelines.lake.events import Event
from pipelines.project import Project
from pipelines.update.looking import progress
from pipelines.update.snapshot.rollback import rollback
from pipelines.update.snapshot.verify import verify
from pipelines.update.upkeep.maintenance import maintain
from tests.fakes.index import FakeIndex
from tests.integration._actions import _ParsingHere
from tests.integration._forkserver import ForkServer
from tests.updating import update, write_config

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Begin:
    """A data folder with much to remove, and what its index holds."""

    folder: Path
    config: str
    home: Path
    index: str
    points: tuple[str, ...]
    digest: str  # of a clean build of the corpus as it is
    retained: dict[str, str]  # snapshot to digest


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, server: ForkServer) -> Begin:
    folder = tmp_path_factory.mktemp("maintenance")
    (folder / "corpus").mkdir()
    config = write_config(folder, encoder={"model": str(tiny_model)}, retention={"snapshots": 2, "history_days": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.parsing.stage.Pool", _ParsingHere)
        project = Project(load_config(config), Home(folder / "home"), index=FakeIndex())
        for number in range(18):
            text = f"# Page {number}\n\nIts text, number {number}.\n"
            (folder / "corpus" / f"{number % 15}.md").write_text(text)
            update(project, f"run-{number}")
        project.events.append([Event("docs", f"{number}.md", "changed", "watch") for number in range(3)])
        last = project.events.last_sequence()
        progress.change(project.home, "docs", observed_sequence=last, applied_sequence=last)
        fresh = Project(project.config, Home(folder / "clean"), index=FakeIndex())
        digest = update(fresh, full=True).candidate.digest
    index = folder / "index.pickle"
    index.write_bytes(pickle.dumps(project.index()))
    retained = {s.snapshot_id: s.digest for s in snapshots.history(project.lake, project.alias)[-2:]}
    shutil.copytree(project.home.root, folder / "undisturbed")
    points = server.result(
        "maintenance", config=str(config), home=str(folder / "undisturbed"), index=str(index), at=None
    )
    return Begin(folder, str(config), project.home.root, str(index), tuple(points), digest, retained)


def chosen(points: tuple[str, ...]) -> list[str]:
    """Of each kind of act the first one and the last one."""
    kinds: dict[str, list[str]] = {}
    for point in points:
        kinds.setdefault(point.rpartition(" #")[0], []).append(point)
    return [p for of in kinds.values() for p in dict.fromkeys((of[0], of[-1]))]


def test_every_kind_of_act_is_among_the_points(begin: Begin) -> None:
    kinds = {point.rpartition(" #")[0] for point in begin.points}
    assert kinds >= {
        "write chunks",
        "write embeddings",
        "write elements",
        "write term_statistics",
        "write change_events",
        "unlink of chunks",
        "unlink of documents",
        "set blob aside",
        "remove blob",
    }
    assert len(chosen(begin.points)) >= 12


def test_a_killed_maintenance_leaves_nothing_broken_and_the_next_one_finishes_it(
    begin: Begin, server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.parsing.stage.Pool", _ParsingHere)
    monkeypatch.setattr(blobs, "_UNTOUCHED_SECONDS", -1.0)
    for point in chosen(begin.points):
        home = begin.folder / "case"
        shutil.copytree(begin.home, home)
        ended = server.run("maintenance", config=begin.config, home=str(home), index=begin.index, at=point)
        assert ended.signal == signal.SIGKILL, f"{point}: {ended.error}"
        index = pickle.loads(Path(begin.index).read_bytes())
        project = Project(load_config(Path(begin.config)), Home(home), index=index)
        assert verify(project).ok, point
        done = update(project, "after")
        assert (done.encoded.encoded, done.parsed.parsed) == (0, 0), point
        with project.writer("again", "maintenance"):
            maintain(project, run_id="again")
        assert maintain(project, run_id="third", dry_run=True).pruned_rows == 0, point
        for snapshot_id, digest in begin.retained.items():
            _live(project, snapshot_id)
            assert verify(project).actual_digest == digest, point
        full = update(project, "full", full=True)
        assert full.candidate.digest == begin.digest, point
        shutil.rmtree(home)


def _live(project: Project, snapshot_id: str) -> None:
    live = snapshots.live(snapshots.history(project.lake, project.alias))
    assert live is not None
    if live.snapshot_id != snapshot_id:
        with project.writer("back", "rollback"):
            rollback(project, snapshot_id, run_id="back")
