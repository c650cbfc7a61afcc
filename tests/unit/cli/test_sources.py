import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli.main import main
from pipelines.home import Home
from pipelines.sources.base import Check
from pipelines.sources.filesystem.folder import Folder
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.registry import KINDS, Kind
from pipelines.update.looking import progress

CONFIG = """
index: demo
sources:
  - {name: handbook, kind: filesystem, path: corpus}
  - {name: quiet, kind: filesystem, path: corpus, monitor: false}
  - {name: hook, kind: webhook, secret_env: HOOK_SECRET}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.md").write_text("text")
    (tmp_path / "lockstep.yaml").write_text(CONFIG)
    monkeypatch.setenv("LOCKSTEP_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOOK_SECRET", "0123456789abcdef")
    return tmp_path


def run(folder: Path, *arguments: str):
    return CliRunner().invoke(main, [*arguments, "--config", str(folder / "lockstep.yaml")])


def checked(folder: Path, *names: str) -> tuple[int, dict]:
    result = run(folder, "sources", "check", "--json", *names)
    told = json.loads(result.stdout.splitlines()[-1])
    return result.exit_code, {source["source"]: source for source in told["sources"]}


def test_checking_says_of_every_source_what_was_tried(folder):
    result = run(folder, "sources", "check")
    assert result.exit_code == 0
    for text in ("handbook (filesystem): ok", "hook (webhook): ok", "ok      read: a.md was read"):
        assert text in result.stdout


def test_checking_writes_nothing(folder):
    run(folder, "sources", "check")
    assert not (folder / "home" / "lake").exists()
    assert not (folder / "home" / "inbox").exists()


def test_one_source_that_cannot_be_read_is_named_and_the_others_are_tried(folder):
    (folder / "lockstep.yaml").write_text(CONFIG + "  - {name: gone, kind: filesystem, path: nowhere}\n")
    status, sources = checked(folder)
    assert status == 1
    assert {name: source["ok"] for name, source in sources.items()} == {
        "handbook": True,
        "quiet": True,
        "hook": True,
        "gone": False,
    }
    assert "`path`" in sources["gone"]["checks"][0]["message"]


def test_only_the_sources_that_are_named_are_tried(folder):
    status, sources = checked(folder, "hook", "hook")
    assert (status, list(sources)) == (0, ["hook"])
    unknown = run(folder, "sources", "check", "nobody")
    assert unknown.exit_code == 2
    assert "handbook, quiet, hook" in unknown.stderr


def test_a_secret_that_is_not_set_is_a_check_that_failed(folder, monkeypatch):
    monkeypatch.delenv("HOOK_SECRET")
    status, sources = checked(folder)
    assert status == 1
    failed = [check for check in sources["hook"]["checks"] if not check["ok"]]
    assert [check["name"] for check in failed] == ["secret"]
    assert "HOOK_SECRET" in failed[0]["message"]
    assert sources["handbook"]["ok"]


class Odd(Folder):
    """A folder whose checking goes wrong in the way that its name says."""

    def __init__(self, section: FilesystemSource, release: threading.Event) -> None:
        super().__init__(section)
        self._name, self._release = section.name, release

    def check(self):
        if self._name == "hangs":
            yield Check("connect", True, "it answers")
            self._release.wait()
        elif self._name == "breaks":
            raise ZeroDivisionError("a mistake in the source's own code")
        yield from super().check()


def test_a_source_that_hangs_or_breaks_delays_and_stops_no_other(folder, monkeypatch):
    release = threading.Event()
    kind = Kind(FilesystemSource, lambda section, around: Odd(section, release))
    monkeypatch.setitem(KINDS, "filesystem", kind)
    (folder / "lockstep.yaml").write_text(
        CONFIG
        + "  - {name: hangs, kind: filesystem, path: corpus, stall_seconds: 0.3}\n"
        + "  - {name: breaks, kind: filesystem, path: corpus}\n"
    )
    started = time.monotonic()
    try:
        status, sources = checked(folder)
    finally:
        release.set()
    assert time.monotonic() - started < 10
    assert status == 1
    assert [check["ok"] for check in sources["hangs"]["checks"]] == [True, False]
    assert "stall_seconds" in sources["hangs"]["checks"][1]["message"]
    assert "ZeroDivisionError" in sources["breaks"]["checks"][0]["message"]
    assert sources["handbook"]["ok"]
    assert sources["hook"]["ok"]


def test_listing_shows_every_source_before_anything_was_read(folder):
    result = run(folder, "sources", "list", "--json")
    assert result.exit_code == 0
    rows = {row["source"]: row for row in json.loads(result.stdout.splitlines()[-1])["sources"]}
    assert list(rows) == ["handbook", "quiet", "hook"]
    assert (rows["quiet"]["monitor"], rows["hook"]["monitor"]) == (False, True)
    assert {(row["documents"], row["pending"], row["listed_at"], row["error"]) for row in rows.values()} == {
        (0, 0, None, None)
    }


def test_listing_shows_when_a_source_was_listed_and_what_went_wrong_last(folder):
    home = Home(folder / "home")
    progress.change(home, "handbook", listed_at=datetime.now(UTC) - timedelta(minutes=7))
    progress.change(home, "hook", error="SourceError: it did not answer", failures=1)
    lines = run(folder, "sources", "list").stdout.splitlines()
    assert "7 min ago" in lines[1]
    assert "off" in lines[2]
    assert lines[3].endswith("SourceError: it did not answer")
