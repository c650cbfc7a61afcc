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

SHOWN = ("  documents ", "  chunks ", "  embeddings ", "  index ", "  gates ")
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


def test_the_demo_shows_what_it_promises_and_what_the_readme_says_twice(home: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
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
        update_lines = printed.partition("The update does only what the changes need:")[2].splitlines()
        shown = [line for line in update_lines if line.startswith(SHOWN)]
        assert len(shown) == 5
        assert "\n".join(shown) in readme
