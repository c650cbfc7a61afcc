"""`lockstep` as it is typed: each command in a process of its own, with the clock around the whole of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measuring


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The command on one configuration and data folder."""

    config: Path
    home: Path

    def update(self) -> tuple[measuring.Took, dict[str, Any]]:
        """`lockstep update --json`: what the process took, and what it answered."""
        with measuring.timed() as took:
            done = self._run("update", "--json", "--config", str(self.config))
        if done.returncode:
            raise SystemExit(f"lockstep update failed:\n{done.stdout}{done.stderr}")
        return took, json.loads(done.stdout.strip().splitlines()[-1])

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *arguments],
            env={**os.environ, "LOCKSTEP_HOME": str(self.home)},
            check=False,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )


@contextlib.contextmanager
def command_line(config: Path, home: Path) -> Iterator[CommandLine]:
    """The command, and an end to the index's process that it started."""
    command = CommandLine(config, home)
    try:
        yield command
    finally:
        command._run("stop")
