"""A document that was replaced under the same size and time is found by whoever reads it: a thorough look does."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipelines.cli.main import main
from pipelines.home import Home
from pipelines.index.server import stop_server
from pipelines.lake.tables import Lake
from tests.updating import write_config

pytestmark = pytest.mark.integration

LONG_AGO = 1_500_000_000
OLD, NEW = "The holiday is in June, all staff.\n", "The holiday is in July, all staff.\n"


class Installation:
    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        (folder / "files").mkdir()
        with sqlite3.connect(folder / "rows.db") as connection:
            connection.execute("CREATE TABLE pages (id TEXT PRIMARY KEY, text TEXT, at TEXT)")
            connection.execute("INSERT INTO pages VALUES ('row', ?, '2020-01-01 00:00:00.5')", (OLD,))
        self.write("a.txt", OLD)
        self.write("b.txt", "Another text.\n")
        everybody = [{"match": "**", "readers": ["group:all"]}]
        columns = {"key": "id", "text": "text", "updated_at": "at"}
        sources = [
            {"name": "files", "kind": "filesystem", "path": "files", "access": everybody},
            {
                "name": "pages",
                "kind": "database",
                "url": "sqlite:///rows.db",
                "table": "pages",
                "columns": columns,
                "access": everybody,
            },
        ]
        write_config(folder, encoder={"model": str(model), "dtype": "float32"}, sources=sources)

    def write(self, name: str, text: str) -> None:
        path = self.folder / "files" / name
        path.write_text(text, encoding="utf-8")
        os.utime(path, (LONG_AGO, LONG_AGO))

    def replace(self) -> None:
        """The same size, the same time, another text."""
        self.write("a.txt", NEW)
        with sqlite3.connect(self.folder / "rows.db") as connection:
            connection.execute("UPDATE pages SET text = ?", (NEW,))

    def lockstep(self, *arguments: str) -> dict[str, Any]:
        command = [*arguments, "--config", str(self.folder / "lockstep.yaml"), "--json"]
        told = CliRunner().invoke(main, command, env={"LOCKSTEP_HOME": str(self.home.root)}, catch_exceptions=False)
        assert told.exit_code == 0, told.output
        found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
        return found

    def texts(self) -> dict[str, str]:
        hits = self.lockstep("query", "holiday text", "--as", "group:all")["hits"]
        return {hit["uri"]: hit["text"] for hit in hits}

    def versions(self) -> dict[str, int]:
        return Lake(self.home.lake).versions()


@pytest.fixture
def installation(tmp_path: Path, tiny_model: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, tiny_model)
    yield made
    stop_server(made.home)


@pytest.mark.parametrize("how", ["--thorough", "--full"])
def test_a_document_that_was_replaced_under_the_same_size_and_time_is_noticed(
    installation: Installation, how: str
) -> None:
    installation.lockstep("update")
    installation.replace()
    assert installation.lockstep("update")["documents"]["changed"] == 0
    assert installation.texts()["a.txt"] == OLD.strip()
    assert installation.lockstep("update", how)["documents"]["changed"] == 2
    texts = installation.texts()
    assert (texts["a.txt"], texts["row"], texts["b.txt"]) == (NEW.strip(), NEW.strip(), "Another text.")


def test_a_thorough_look_at_what_has_not_changed_writes_nothing(installation: Installation) -> None:
    installation.lockstep("update")
    installation.lockstep("update")
    before = installation.versions()
    found = installation.lockstep("update", "--thorough")
    assert found["documents"]["unchanged"] == 3
    assert (found["documents"]["changed"], found["embeddings"]["encoded"]) == (0, 0)
    assert installation.versions() == before


def test_a_thorough_look_tells_only_of_what_differs(installation: Installation) -> None:
    installation.lockstep("update")
    installation.lockstep("update")
    before = Lake(installation.home.lake).count("change_events")
    installation.write("a.txt", NEW)
    installation.lockstep("update", "--thorough")
    assert Lake(installation.home.lake).count("change_events") == before + 1
