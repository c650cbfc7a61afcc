"""The writer lock: one holder, named to whoever comes second, gone with its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import WriterBusy
from pipelines.lake.lock import lock_holder, writer_lock


def test_the_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    with writer_lock(path, run_id="run-1", purpose="update"):
        assert "run-1" in (lock_holder(path) or "")
        with (
            pytest.raises(WriterBusy, match=r"update \(run run-1, process \d+"),
            writer_lock(path, run_id="run-2", purpose="x"),
        ):
            pass
    assert lock_holder(path) is None
    with writer_lock(path, run_id="run-3", purpose="update"):
        pass


def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    code = (
        "import sys, time; from pathlib import Path; from pipelines.lake.lock import writer_lock\n"
        f"with writer_lock(Path({str(path)!r}), run_id='killed', purpose='update'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "held"
        assert "killed" in (lock_holder(path) or "")
        process.kill()
        process.wait()
    with writer_lock(path, run_id="next", purpose="update"):
        pass
