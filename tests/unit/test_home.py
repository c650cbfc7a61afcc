"""The data folder, and who can look inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import LockstepError
from pipelines.home import Home

ROOT = Path(__file__).resolve().parents[2]


def test_a_new_folder_is_its_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    home.claim()
    assert home.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o750, 0o701])
def test_a_folder_that_others_can_look_into_is_narrowed(tmp_path: Path, mode: int) -> None:
    home = Home(tmp_path)
    tmp_path.chmod(mode)
    home.claim()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LockstepError, match="LOCKSTEP_HOME"):
        Home(tmp_path / "file").claim()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which takes root")
def test_another_user_neither_reads_it_nor_may_use_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.claim()
    (home.root / "text").write_text("secret")
    for folder in [*tmp_path.parents, tmp_path]:
        if folder != Path("/") and folder.stat().st_mode & 0o005 != 0o005 and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from pipelines.home import Home\nfrom pipelines.errors import LockstepError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: open(sys.argv[1] + '/text').read(); sys.exit(3)\nexcept PermissionError: pass\n"
        "try: Home(Path(sys.argv[1])).claim()\nexcept LockstepError: sys.exit(0)\nsys.exit(4)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home.root), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
