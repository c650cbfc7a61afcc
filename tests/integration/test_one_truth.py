"""One truth, whatever the order: edits, announcements, listings, crashes, replays, rollbacks and upkeep, interleaved.

Hypothesis chooses the moves. Whenever everything has arrived and is applied, the index holds exactly what a clean build
would. At every moment, people of two tenants who ask are shown exactly the rows of the live snapshot that it and
today's rules let them read, and a snapshot that came back is what it was. A share of the examples runs on a real Milvus
Lite process.

The examples are the same in every run, so that it fails for what was changed. LOCKSTEP_STRESS=1 asks for the long run,
LOCKSTEP_TRUTH_EXAMPLES for another number, LOCKSTEP_TRUTH_SEED for others (0: by chance), and each process says its
seed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import LockstepError
from tests.integration._forkserver import ROOT
from tests.integration._truth_bench import Bench, Setting, bench_in
from tests.integration._truth_bugs import BUGS, planted
from tests.integration._truth_trap import Trap
from tests.integration._truth_world import World
from tests.stress import STRESS
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.stress]

EXAMPLES = int(os.environ.get("LOCKSTEP_TRUTH_EXAMPLES", "2000" if STRESS else "240"))
ON_LITE = 500 if STRESS else 100
SEED = int(os.environ.get("LOCKSTEP_TRUTH_SEED", "272230288")) or random.SystemRandom().randrange(1, 10**9)
TO_FIND_A_BUG = 1_000  # examples at most
EACH_MOVE_AT_LEAST = 20 if STRESS else 1

_MEMORY = Path("/dev/shm")


def run(examples: int, seed: int, folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration._truth_run", str(examples), str(seed), str(folder), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def told(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, _ = process.communicate()
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert found, output
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In memory where there is some: thousands of small commits need no disk."""
    return _MEMORY if os.access(_MEMORY, os.W_OK) else tmp_path_factory.mktemp("truth")


def test_whatever_happens_in_whatever_order_the_index_comes_to_what_a_clean_build_holds(scratch: Path) -> None:
    running = [run(EXAMPLES, SEED, scratch), run(ON_LITE, SEED + 1, scratch, "--lite")]
    (in_memory,), (on_lite,) = [told(process) for process in running]
    results = (in_memory, on_lite)
    for result in results:
        assert not result["failure"], f"LOCKSTEP_TRUTH_SEED={result['seed']}\n{result['failure']}"
    happened = sum((Counter(result["happened"]) for result in results), Counter[str]())
    crashes = sum((Counter(result["crashes"]) for result in results), Counter[str]())
    counted = {name: [result[name] for result in results] for name in COUNTED}
    print(f"seed {SEED}: {counted}, {crashes.total()} crashes at {len(crashes)} places, {dict(happened)}")  # noqa: T201
    assert in_memory["examples"] >= EXAMPLES
    assert on_lite["examples"] >= ON_LITE
    for result in results:
        assert result["rests"] >= result["examples"]
        assert result["questions"] >= result["rests"] * 30
        assert result["clean_builds"] >= result["rests"] // 50
    if EXAMPLES >= 240:
        assert min(happened[name] for name in MOVES) >= EACH_MOVE_AT_LEAST, happened
        assert len(crashes) >= 40


COUNTED = ("examples", "rests", "clean_builds", "questions", "seconds", "cpu_seconds")
MOVES = (
    "write",
    "write unseen",
    "remove",
    "rename",
    "copy",
    "touch",
    "hint",
    "break",
    "announce",
    "arrive",
    "arrive twice",
    "reject",
    "reject nonsense",
    "replay",
    "discard",
    "rules",
    "tenant",
    "observe listing",
    "observe hints",
    "observe thoroughly",
    "update with scan",
    "update without scan",
    "maintenance",
    "rollback",
    "rollback to a named one",
    "rest with scan",
    "rest without scan",
    "rest thoroughly",
)


@pytest.fixture(scope="module")
def table(scratch: Path) -> Iterator[tuple[Bench, Trap]]:
    """What plays in this process share."""
    with (
        tempfile.TemporaryDirectory(dir=scratch) as folder,
        bench_in(Path(folder), write_tiny_model(Path(folder) / "model")) as shared,
    ):
        yield shared


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_planted_is_found_where_it_is_met(table: tuple[Bench, Trap], bug: str) -> None:
    BUGS[bug].play(World(*table, Setting(kept=3)))
    world = World(*table, Setting(kept=3))
    with planted(bug), pytest.raises((AssertionError, LockstepError)):
        BUGS[bug].play(world)


if STRESS:  # not a skip, which would be a failure where every integration test has to run

    @pytest.mark.parametrize("bug", BUGS)
    def test_a_bug_that_is_planted_is_found_by_chance(scratch: Path, bug: str) -> None:
        (found,) = told(run(TO_FIND_A_BUG, 1, scratch, "--plant", bug))
        assert found["failure"], f"{found['examples']} examples passed with a library that {bug}"
