"""From a hit back to its document, source, parser, recipe, model, run and snapshot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipelines.errors import SnapshotNotFound
from pipelines.identity import content_hash
from pipelines.project import Project
from pipelines.update.applying import versions
from pipelines.update.history.explain import explain
from pipelines.update.upkeep.maintenance import maintain
from tests.fakes.index import FakeIndex
from tests.integration._actions import _ParsingHere
from tests.updating import open_project, update

LEAVE = "---\nauthor: Ada\n---\n# Leave\n\n## Parents\n\nTen more days.\n"


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr("pipelines.parsing.stage.Pool", _ParsingHere)
    opened = open_project(tmp_path, encoder={"model": str(tiny_model)}, retention={"snapshots": 2})
    write(opened, "hr/leave.md", LEAVE)
    write(opened, "twice.txt", "The same sentence.\n")
    made = Project(opened.config, opened.home, index=FakeIndex())
    monkeypatch.setattr(Project, "index", lambda _: made._given)
    return made


def write(project: Project, uri: str, text: str) -> None:
    path = project.home.root.parent / "corpus" / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def updated(project: Project, run_id: str) -> str:
    done = update(project, run_id)
    versions.catch_up(project, run_id=run_id)
    return done.promotion.snapshot_id


def chunk_of(project: Project, uri: str) -> str:
    index = project.index()
    live = index.alias_target(project.alias)
    assert live is not None
    rows = index.rows(live).to_pylist()
    return str(next(row["chunk_id"] for row in rows if row["uri"] == uri))


def test_a_chunk_is_explained_by_everything_that_made_it(project: Project) -> None:
    first = updated(project, "one")
    write(project, "twice.txt", "The same sentence, edited.\n")
    second = updated(project, "two")
    found = explain(project, chunk_of(project, "hr/leave.md"))
    assert found.place["heading_path"] == ["Leave"]
    assert found.place["characters"][1] > found.place["characters"][0]
    document = found.document
    assert (document["source"], document["uri"], document["kind"]) == ("docs", "hr/leave.md", "filesystem")
    assert document["content_hash"] == content_hash(LEAVE.encode())
    assert document["blob"] is True
    assert document["author"] == "Ada"
    assert found.access["readers"] == ["group:hr"]
    assert found.parsing["parser"] == "markdown"
    assert "markdown-it-py" in found.parsing["libraries"]
    assert found.parsing["parser_fp"] == project.recipe.parser_fp("text/markdown")
    assert (found.parsing["run_id"], found.recipe["run_id"], found.encoding["run_id"]) == ("one", "one", "one")
    assert found.encoding["model_fp"] == project.recipe.model_fp
    assert found.encoding["dimension"] == 32
    assert (found.snapshot["live"], found.snapshot["first_with_this_version"]) == (second, first)
    assert found.times["searchable_at"] >= found.times["durable_at"] >= found.times["changed_at"]


def test_the_run_of_another_chunk_is_its_own(project: Project) -> None:
    updated(project, "one")
    write(project, "twice.txt", "The same sentence, edited.\n")
    second = updated(project, "two")
    found = explain(project, chunk_of(project, "twice.txt"))
    assert found.encoding["run_id"] == "two"
    assert found.snapshot["first_with_this_version"] == second
    assert found.document["version"] == 2


def test_a_chunk_is_explained_to_somebody_only_if_they_may_read_it_now(project: Project) -> None:
    updated(project, "one")
    chunk_id = chunk_of(project, "hr/leave.md")
    assert explain(project, chunk_id, principals=["group:hr"]).text
    for asking, tenant in ((["group:staff"], "default"), (["group:hr"], "beta")):
        with pytest.raises(SnapshotNotFound, match="that you may read") as refused:
            explain(project, chunk_id, principals=asking, tenant=tenant)
        with pytest.raises(SnapshotNotFound) as missing:
            explain(project, "f" * 32, principals=asking, tenant=tenant)
        assert str(refused.value) == str(missing.value).replace("f" * 32, chunk_id)


def test_an_explanation_tells_the_readers_of_the_snapshot_and_those_of_today(project: Project) -> None:
    updated(project, "one")
    rule = project.config.sources[0].access[0].model_copy(update={"match": "**", "readers": ("user:ada",)})
    section = project.config.sources[0].model_copy(update={"access": (rule,)})
    project.config = project.config.model_copy(update={"sources": (section,)})
    access = explain(project, chunk_of(project, "hr/leave.md")).access
    assert (access["readers"], access["readers_today"]) == (["group:hr"], ["user:ada"])


def test_a_unique_beginning_is_enough(project: Project) -> None:
    updated(project, "one")
    chunk_id = chunk_of(project, "hr/leave.md")
    assert explain(project, chunk_id[:12].upper()).chunk_id == chunk_id
    with pytest.raises(SnapshotNotFound, match="no chunk of the live snapshot"):
        explain(project, "")


def test_a_chunk_that_is_no_longer_live_is_found_in_the_snapshot_that_had_it(project: Project) -> None:
    first = updated(project, "one")
    old = chunk_of(project, "twice.txt")
    write(project, "twice.txt", "Something else.\n")
    updated(project, "two")
    with pytest.raises(SnapshotNotFound, match=rf"snapshot {first} \(retired.*'twice\.txt'.*lockstep history"):
        explain(project, old)
    with pytest.raises(SnapshotNotFound, match="nor has any snapshot that is kept"):
        explain(project, "f" * 32)


def test_after_maintenance_wrote_a_table_anew_the_run_is_not_guessed(project: Project) -> None:
    updated(project, "one")
    for number in range(4):
        write(project, "twice.txt", f"Sentence {number}.\n")
        updated(project, f"run-{number}")
    with project.writer("maintenance", "maintenance"):
        maintain(project, run_id="upkeep")
    found = explain(project, chunk_of(project, "hr/leave.md"))
    assert (found.encoding["run_id"], found.encoding["rewritten_by"]) == (None, "upkeep")


# --- the commands over it ---


def lockstep(project: Project, *arguments: str) -> Result:
    from pipelines.cli.main import main

    config = str(project.home.root.parent / "lockstep.yaml")
    environ = {"LOCKSTEP_HOME": str(project.home.root)}
    return CliRunner().invoke(main, [*arguments, "--config", config], env=environ, catch_exceptions=False)


def test_the_commands_tell_it_to_people_and_to_scripts(project: Project) -> None:
    updated(project, "one")
    write(project, "twice.txt", "The same sentence, edited.\n")
    snapshot = updated(project, "two")
    chunk_id = chunk_of(project, "twice.txt")
    told = lockstep(project, "explain", chunk_id[:10])
    assert told.exit_code == 0
    assert "group:staff" in told.output
    as_json = json.loads(lockstep(project, "explain", chunk_id, "--json").stdout)
    assert as_json["document"]["uri"] == "twice.txt"
    told = lockstep(project, "history", "twice.txt")
    assert "2*" in told.output
    as_json = json.loads(lockstep(project, "history", "twice.txt", "--json").stdout)
    newest, oldest = as_json["documents"][0]["versions"]
    assert (newest["change"], newest["live"], newest["snapshot_id"]) == ("changed", True, snapshot)
    assert (oldest["change"], oldest["live"]) == ("added", False)
    unknown = lockstep(project, "history", "twise.txt")
    assert unknown.exit_code == 1
    assert "twice.txt" in unknown.output


def test_maintenance_by_command_tells_what_it_gave_back(project: Project) -> None:
    for number in range(4):
        write(project, "twice.txt", f"Sentence {number}.\n")
        updated(project, f"run-{number}")
    dry = json.loads(lockstep(project, "maintenance", "--dry-run", "--json").stdout)
    done = json.loads(lockstep(project, "maintenance", "--json").stdout)
    assert dry["pruned_rows"] == done["pruned_rows"] > 0
    assert done["reclaimed_bytes"] == done["bytes_before"] - done["bytes_after"] > 0
    told = lockstep(project, "maintenance")
    assert "2 snapshots can be brought back" in told.output


def test_dead_letters_by_command(project: Project) -> None:
    (project.home.root.parent / "corpus" / "broken.pdf").write_bytes(b"%PDF-1.7\nnot really")
    updated(project, "one")
    (letter,) = json.loads(lockstep(project, "dead-letters", "list", "--json").stdout)["letters"]
    assert (letter["uri"], letter["stage"]) == ("broken.pdf", "parse")
    assert "broken.pdf" in lockstep(project, "dead-letters", "list", "--stage", "parse").output
    assert "no dead letters" in lockstep(project, "dead-letters", "list", "--source", "other").output
    shown = json.loads(lockstep(project, "dead-letters", "show", letter["letter_id"][:8], "--json").stdout)
    assert shown["payload_kept"] is True
    assert lockstep(project, "dead-letters", "replay").exit_code == 2
    replayed = json.loads(lockstep(project, "dead-letters", "replay", "--all", "--json").stdout)
    assert replayed["announced"] == 1
    discarded = lockstep(project, "dead-letters", "discard", letter["letter_id"], "--reason", "a test")
    assert "1 letters discarded" in discarded.output
    assert "discarded" in lockstep(project, "dead-letters", "list", "--status", "all", "--json").output
