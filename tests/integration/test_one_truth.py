"""One truth, whatever the order: edits, announcements, listings, crashes and replays, interleaved by hypothesis.

Whenever everything has arrived and is applied, the index holds exactly what a clean build would, and in between it
never shows a text to somebody who was not allowed to read it. The examples are the same in every run, so that it fails
for what was changed; LOCKSTEP_TRUTH_EXAMPLES asks for more, LOCKSTEP_TRUTH_SEED for others (0: by chance), and each
process says its seed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.integration._forkserver import ROOT
from tests.integration._truth_bugs import BUGS

pytestmark = [pytest.mark.integration, pytest.mark.stress]

PROCESSES = 2
EXAMPLES = int(os.environ.get("LOCKSTEP_TRUTH_EXAMPLES", "2000"))
SEED = int(os.environ.get("LOCKSTEP_TRUTH_SEED", "272230288")) or random.SystemRandom().randrange(1, 10**9)
TO_FIND_A_BUG = 400  # examples at most

_MEMORY = Path("/dev/shm")


def run(examples: int, seed: int, folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration._truth_run", str(examples), str(seed), str(folder), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """In memory where there is some: thousands of small commits need no disk."""
    return _MEMORY if os.access(_MEMORY, os.W_OK) else tmp_path


def test_whatever_happens_in_whatever_order_the_index_comes_to_what_a_clean_build_holds(scratch: Path) -> None:
    running = [run(EXAMPLES // PROCESSES, SEED + number, scratch) for number in range(PROCESSES)]
    results = [told(process) for process in running]
    for result in results:
        assert not result["failure"], f"LOCKSTEP_TRUTH_SEED={result['seed']}\n{result['failure']}"
    happened = sum((Counter(result["happened"]) for result in results), Counter[str]())
    crashes = sum((Counter(result["crashes"]) for result in results), Counter[str]())
    counted = {name: sum(result[name] for result in results) for name in ("examples", "rests", "clean_builds")}
    print(f"seed {SEED}: {counted}, {crashes.total()} crashes at {len(crashes)} places, {dict(happened)}")  # noqa: T201
    assert counted["examples"] >= EXAMPLES // PROCESSES * PROCESSES
    assert counted["rests"] >= counted["examples"]
    assert counted["clean_builds"] >= counted["rests"] // 50
    if EXAMPLES >= 1_000:
        assert min(happened[name] for name in MOVES) >= 20, happened
        assert len(crashes) >= 40


MOVES = (
    "write",
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
    "rules",
    "observe listing",
    "observe hints",
    "update with scan",
    "update without scan",
    "rollback",
    "rest with scan",
    "rest without scan",
)


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_that_is_planted_is_found(scratch: Path, bug: str) -> None:
    found = told(run(TO_FIND_A_BUG, 1, scratch, "--plant", bug))
    assert found["failure"], f"{found['examples']} examples passed with a library that {bug}"
