"""What an operator gets wrong: the message names file, line and key or folder, and the next step; nothing is harmed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration._desk import Desk, desk_in
from tests.integration._forkserver import ROOT, ForkServer
from tests.integration._stages import configuration
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def desk(server: ForkServer, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Desk]:
    """A healthy installation."""
    with desk_in(server, tmp_path_factory.mktemp("desk"), tiny_model) as found:
        found.write(leave_md="# Leave\n\nThirty days.\n", travel_md="# Travel\n\nBy train.\n")
        found.update()
        yield found


@pytest.fixture
def config(desk: Desk) -> Iterator[dict[str, Any]]:
    """The right configuration, to be made wrong; put back afterwards."""
    yield configuration(desk.model)
    desk.configure(configuration(desk.model))


ALL_THAT_READ_IT = ["plan", "update", "verify", "status", "snapshots", "rollback"]

UNKNOWN = {
    "index": "test",
    "sorces": [],
    "sources": [{"name": "d", "kind": "filesystem", "path": "corpus", "acess": []}],
}


@pytest.mark.parametrize("command", ALL_THAT_READ_IT)
def test_unknown_keys_are_a_usage_error_that_names_each_with_its_line(
    desk: Desk, config: dict[str, Any], command: str
) -> None:
    before = desk.visible()
    desk.configure(UNKNOWN)
    told = desk.lockstep(command)
    assert told.status == 2
    assert "sorces: unknown key" in told.err
    assert "sources.0.acess: unknown key" in told.err
    assert f"{desk.config}:" in told.err
    assert "Traceback" not in told.err
    desk.configure(config)
    assert desk.visible() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("index: Test Index\nsources: []\n", "index"),
        ("index: test\nsources: [{name: d, kind: ftp, path: x}]\n", "sources.0"),
        ("index: test\nsources: [{name: d, kind: filesystem}]\n", "path: this key is required"),
        ("index: test\nsources: [{name: d, kind: filesystem, path: x}]\nencoder: {token_budget: many}\n", "'many'"),
        ("index: test\nindex: again\nsources: [{name: d, kind: filesystem, path: x}]\n", "twice"),
        ("index: [\n", "not valid YAML"),
        ("just words\n", "expected a mapping"),
        ("", "expected a mapping"),
    ],
    ids=["bad name", "unknown kind", "missing key", "wrong type", "key twice", "not YAML", "no mapping", "empty file"],
)
def test_wrong_values_are_usage_errors_that_name_the_file_and_the_key(
    desk: Desk, config: dict[str, Any], text: str, said: str
) -> None:
    desk.configure(text)
    told = desk.lockstep("update")
    assert told.status == 2
    assert str(desk.config) in told.err
    assert said in told.err
    assert "Traceback" not in told.err


def test_a_wrong_value_from_the_environment_names_the_variable(desk: Desk) -> None:
    told = desk.lockstep("update", environ={"LOCKSTEP__RETRIEVAL__RRF_K": "0"})
    assert told.status == 2
    assert "LOCKSTEP__RETRIEVAL__RRF_K" in told.err


def test_a_missing_configuration_file_is_named_with_what_to_do(desk: Desk, config: dict[str, Any]) -> None:
    desk.config.unlink()
    told = desk.lockstep("update", "--json")
    assert told.status == 2
    assert str(desk.config) in told.err
    assert "--config" in told.err
    assert told.json["error"]["class"] == "ConfigError"


def test_a_model_that_is_not_there_is_named(desk: Desk, config: dict[str, Any]) -> None:
    desk.configure({**config, "encoder": {"model": "no-such-model"}})
    told = desk.lockstep("update")
    assert told.status == 2
    assert "encoder.model: 'no-such-model'" in told.err
    assert "install the package" in told.err
    desk.configure(config)
    desk.check_in_step()


def test_another_model_means_that_everything_is_encoded_again_and_the_old_snapshot_serves_until_then(
    desk: Desk, config: dict[str, Any]
) -> None:
    before = desk.visible()
    other = write_tiny_model(desk.folder / "other", seed=8)
    desk.configure({**config, "encoder": {"model": str(other), "dtype": "float32"}})
    assert desk.visible() == before
    assert desk.update()["encoded"] == 2
    desk.check_in_step()
    desk.configure(config)
    assert desk.update()["encoded"] == 0
    desk.check_in_step()


def test_a_model_whose_files_were_replaced_is_not_used_for_old_vectors(desk: Desk, config: dict[str, Any]) -> None:
    model = write_tiny_model(desk.folder / "replaced", seed=9)
    desk.configure({**config, "encoder": {"model": str(model), "dtype": "float32"}})
    desk.update()
    shutil.rmtree(model)
    write_tiny_model(model, seed=10)
    told = desk.lockstep("query", "leave", "--as", "group:staff")
    assert told.status == 1
    assert "was replaced" in told.err
    assert "lockstep update" in told.err
    assert desk.update()["encoded"] == 2
    desk.check_in_step()
    desk.configure(config)
    desk.update()


@pytest.mark.parametrize("how", ["missing", "a file", "not a folder that can be read"])
def test_a_source_that_cannot_be_read_deletes_nothing_and_is_named(desk: Desk, how: str) -> None:
    before = desk.visible()
    away = desk.folder / "away"
    desk.corpus.rename(away)
    try:
        if how == "a file":
            desk.corpus.write_text("no folder")
        elif how != "missing":
            desk.corpus.symlink_to(desk.corpus)  # root reads what it may not, but no loop
        for command in ("update", "plan"):
            told = desk.lockstep(command)
            assert told.status == 1, told.out
            assert str(desk.corpus) in told.err
            assert "Traceback" not in told.err
        assert desk.visible() == before
    finally:
        if desk.corpus.is_symlink() or desk.corpus.is_file():
            desk.corpus.unlink()
        away.rename(desk.corpus)
    assert desk.update()["encoded"] == 0
    desk.check_in_step()


def test_a_source_that_is_suddenly_empty_is_refused_until_the_operator_approves(
    desk: Desk, config: dict[str, Any]
) -> None:
    desk.configure({**config, "guard": {"min_documents": 1}})
    before = desk.visible()
    away = desk.folder / "away"
    desk.corpus.rename(away)
    desk.corpus.mkdir()
    told = desk.lockstep("update")
    assert told.status == 1
    assert "--approve-deletions" in told.err
    assert desk.visible() == before
    desk.corpus.rmdir()
    away.rename(desk.corpus)
    desk.update()
    desk.check_in_step()


def test_a_malformed_principal_is_a_usage_error(desk: Desk) -> None:
    told = desk.lockstep("query", "leave", "--as", "staff")
    assert told.status == 2
    assert "'staff'" in told.err
    assert "group:" in told.err


def test_a_data_folder_that_cannot_be_made_is_named(desk: Desk) -> None:
    (desk.folder / "occupied").write_text("")
    told = desk.lockstep("update", environ={"LOCKSTEP_HOME": str(desk.folder / "occupied")})
    assert told.status == 1
    assert str(desk.folder / "occupied") in told.err
    assert "Traceback" not in told.err


def test_the_module_is_the_command_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "update", "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
