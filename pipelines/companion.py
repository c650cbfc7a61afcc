"""Processes beside ours that outlive it on purpose: what the next command needs, and is slow to start."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_started: list[subprocess.Popen[bytes]] = []  # kept, or Python warns that they still run


@atexit.register
def _let_go() -> None:
    """Without this Python warns of each at its end."""
    for process in _started:
        if process.poll() is None:
            process.returncode = 0


def start_module(
    module: str,
    arguments: Sequence[str],
    *,
    output: IO[bytes],
    environment: Mapping[str, str] | None = None,
    keep: Sequence[int] = (),
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Run a module of this code in a process of its own, which goes on when this one ends.

    Args:
        module: its name.
        arguments: for it.
        output: where everything that it prints goes.
        environment: variables besides ours.
        keep: descriptors that it inherits.
        folder: where it works; None: here.
    """
    package_root = str(Path(__file__).resolve().parents[1])
    paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=keep,
        start_new_session=True,  # an interrupt at the terminal is not for it
        env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)},
        cwd=folder,
    )
    _started.append(process)
    return process


def collect() -> None:
    """Take note of those that have ended: each would stay as a zombie while this process lives."""
    for process in _started:
        process.poll()
