"""Killed with kill -9 at every write of following two sources: the next run comes to the same, nothing lost or doubled.

The writes are found by instrumentation: the log of changes, blobs, access sets, staged changes, elements, dead letters,
the manifest, document versions, chunks, vectors, the index, snapshots, the audit chain, how far each source was
followed, the guard's question and the operator's answer. At each of them the process dies before, half-way through,
after, and at a random moment from there on: once here, seven times by `make stress`.
"""

from __future__ import annotations

import random
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration import _following
from tests.integration._commit_points import How
from tests.integration._forkserver import ForkServer
from tests.integration._stages import write_corpus
from tests.stress import STRESS

pytestmark = [pytest.mark.integration, pytest.mark.stress]

TIMES = 10 if STRESS else 4
TIMES_IN_ONE_FOLDER = 10
LONGEST_SECONDS = 0.25  # after a write began: most of the rest of the run
MUST_BE_THERE = (
    "append change_events",
    "put blob",
    "append acl_sets",
    "stage changes",
    "append elements",
    "merge dead_letters",
    "merge documents",
    "append document_versions",
    "append chunks",
    "append embeddings",
    "index upsert",
    "index delete",
    "index write_state complete",
    "index point_alias",
    "replace index_snapshots",
    "append audit_log",
    "progress of docs",
    "progress of feed",
    "question",
    "approval",
    "settle docs",
)


@dataclass
class Followed:
    """An installation that has followed its sources once, and what it comes to when it follows them again."""

    server: ForkServer
    folder: Path
    config: str
    begin: Path
    points: list[str]
    result: dict[str, Any]
    shown_at_first: list[str]
    shown_between: list[str]  # the feed's changes and the new readers, while the guard's question is open

    def home(self) -> Path:
        home = self.folder / "case"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(self.begin, home)
        return home

    def killed(self, home: Path, point: str, how: How, delay_seconds: float = 0.0) -> None:
        arguments = {"config": self.config, "home": str(home), "at": point, "how": how, "delay_seconds": delay_seconds}
        ended = self.server.run("follow_dying", **arguments)
        assert ended.signal == signal.SIGKILL, ended.error

    def check(self, home: Path) -> None:
        """The next run ends where an undisturbed one does; until then the old texts were shown, or the new ones."""
        after = self.server.result("follow_again", config=self.config, home=str(home))
        before = after.pop("shown_before")
        assert after == self.result
        assert before in (self.shown_at_first, self.result["shown_after"], self.shown_between)


@pytest.fixture(scope="module")
def followed(server: ForkServer, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Followed:
    folder = Path(tmp_path_factory.mktemp("followed"))
    configs = []
    for number, files in enumerate((_following.FILES, _following.CHANGED)):
        write_corpus(folder / f"files-{number}", {uri: content.decode() for uri, content in files.items()})
        path = folder / f"lockstep-{number}.yaml"
        data = _following.configuration(tiny_model, str(folder / f"files-{number}"), changed=number == 1)
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        configs.append(str(path))
    begin = folder / "begin"
    server.result("follow", config=configs[0], home=str(begin), changed=False)
    shown = server.result("texts_shown", config=configs[0], home=str(begin))
    undisturbed = folder / "undisturbed"
    shutil.copytree(begin, undisturbed)
    points = server.result("follow_points", config=configs[1], home=str(undisturbed))
    between = folder / "between"
    shutil.copytree(begin, between)
    swapped = [point for point in points if point.startswith("index point_alias")]
    ended = server.run("follow_dying", config=configs[1], home=str(between), at=swapped[0], how="after")
    assert ended.signal == signal.SIGKILL, ended.error
    result = server.result("follow_again", config=configs[1], home=str(undisturbed))
    result.pop("shown_before")
    shown_between = server.result("texts_shown", config=configs[1], home=str(between))
    return Followed(server, folder, configs[1], begin, points, result, shown, shown_between)


def acts(points: list[str]) -> list[str]:
    """The points, each act once, and its second time where it has one."""
    return [point for point in points if "#" not in point or point.endswith(" #2")]


def test_what_an_undisturbed_run_comes_to_is_right(followed: Followed, tmp_path: Path) -> None:
    result = followed.result
    assert set(MUST_BE_THERE) <= {point.partition(" #")[0] for point in followed.points}, followed.points
    assert len(acts(followed.points)) >= 12
    status = {uri: (state, version) for uri, state, version, _ in result["documents"]}
    assert status["leave.md"] == ("active", 2)
    assert status["new.md"] == ("active", 1)
    assert status["hr/pay.txt"][0] == status["old/0.md"][0] == status["k2.md"][0] == "deleted"
    assert status["k1.md"] == ("active", 2)
    assert status["broken.pdf"][0] == "quarantined"
    assert result["letters"] == [["broken.pdf", "parse"], ["webhook:bad", "event"]]
    assert "Never to be seen" not in "".join(result["shown_after"])
    assert result["verified"]
    for name in ("pending", "asked", "events_doubled", "sequences_doubled", "versions_doubled", "texts_doubled"):
        assert result[name] == 0, name
    clean = followed.server.result("follow_clean", config=followed.config, home=str(tmp_path / "clean"))
    assert result["digest"] == clean


@pytest.mark.parametrize("act", MUST_BE_THERE)
def test_killed_at_a_write_again_and_again_it_comes_to_the_same(followed: Followed, act: str) -> None:
    points = [point for point in followed.points if point.partition(" #")[0] == act]
    draw = random.Random(act)
    hows: list[How] = ["before", "half-way", "after"]
    for number in range(TIMES):
        point = points[number % len(points)] if number < len(hows) else draw.choice(points)
        how: How = hows[number] if number < len(hows) else "soon"
        delay = draw.uniform(0, LONGEST_SECONDS) if how == "soon" else 0.0
        home = followed.home()
        followed.killed(home, point, how, delay)
        try:
            followed.check(home)
        except AssertionError as error:
            raise AssertionError(f"killed {how} {point} ({delay * 1000:.0f} ms)") from error


def test_killed_again_and_again_in_one_folder_it_comes_to_the_same(followed: Followed) -> None:
    home = followed.home()
    draw = random.Random(3)
    for _ in range(TIMES_IN_ONE_FOLDER):
        ended = followed.server.run(
            "follow_dying",
            config=followed.config,
            home=str(home),
            at=draw.choice(MUST_BE_THERE[:12]),
            how="soon",
            delay_seconds=draw.uniform(0, LONGEST_SECONDS),
        )
        assert ended.error is None, ended.error
    after = followed.server.result("follow_again", config=followed.config, home=str(home))
    after.pop("shown_before")
    assert after == followed.result
