"""`make demo` as a new user runs it, twice, and the README's words about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def run_demo(home: Path) -> tuple[str, dict[str, Any]]:
    environment = {**os.environ, "LOCKSTEP_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((home / "demo" / "figures.json").read_text())


def test_the_demo_shows_what_it_promises_and_can_be_run_twice(home: Path) -> None:
    for _ in range(2):
        printed, figures = run_demo(home)
        assert figures["build"]["documents"]["added"] == 48
        assert figures["build"]["documents"]["quarantined"] == 1
        assert figures["build"]["promoted"]
        update = figures["update"]
        assert {k: update["documents"][k] for k in ("added", "changed", "deleted")} == {
            "added": 1,
            "changed": 1,
            "deleted": 2,
        }
        assert update["embeddings"]["encoded"] == 1
        assert all(figures[name] for name in ("verified", "answer_changed", "deleted_is_gone", "rolled_back"))
        assert "46 euros" in printed
        assert "52 euros" in printed


def test_the_readme_shows_the_demos_own_output(home: Path) -> None:
    printed, _ = run_demo(home)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in printed.splitlines():
        if line.startswith(("  documents ", "  chunks ", "  embeddings ", "  index ", "  gates ")):
            assert line.strip() in readme
