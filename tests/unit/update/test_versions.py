"""The versions of a document, from the manifest's change feed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.errors import LockstepError
from pipelines.home import Home
from pipelines.lake import manifest
from pipelines.lake.portions import portions
from pipelines.project import Project
from pipelines.update.applying.versions import catch_up
from pipelines.update.history.versions import DocumentVersion, history
from pipelines.update.snapshot.rollback import rollback
from tests.fakes.index import FakeIndex
from tests.integration._actions import _ParsingHere
from tests.updating import open_project, update


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr("pipelines.parsing.stage.Pool", _ParsingHere)
    opened = open_project(tmp_path, encoder={"model": str(tiny_model)})
    write(opened, "a.md", "# A\n\nThe first text.\n")
    write(opened, "b.md", "# B\n\nAnother text.\n")
    return Project(opened.config, opened.home, index=FakeIndex())


def corpus(project: Project) -> Path:
    return project.home.root.parent / "corpus"


def write(project: Project, uri: str, text: str) -> None:
    path = corpus(project) / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def updated(project: Project, run_id: str) -> str:
    """The snapshot that is live after one update."""
    done = update(project, run_id, approve_deletions=True)
    catch_up(project, run_id=run_id)
    return done.promotion.snapshot_id


def versions(project: Project, uri: str) -> tuple[DocumentVersion, ...]:
    (found,) = history(project, uri)
    return found.versions


def test_a_document_that_is_changed_deleted_and_restored_has_each_version_with_its_snapshot(project: Project) -> None:
    runs = ["one", "two", "three", "four"]
    made = [updated(project, "one")]
    write(project, "a.md", "# A\n\nThe second text.\n")
    made.append(updated(project, "two"))
    (corpus(project) / "a.md").unlink()
    made.append(updated(project, "three"))
    write(project, "a.md", "# A\n\nThe third text, which is longer.\n")
    made.append(updated(project, "four"))
    told = versions(project, "a.md")
    assert [one.change for one in told] == ["restored", "deleted", "changed", "added"]
    assert [one.version for one in told] == [3, 2, 2, 1]
    assert [one.run_id for one in told] == runs[::-1]
    assert [one.snapshot_id for one in told] == made[::-1]
    assert [one.live for one in told] == [True, False, False, False]
    assert len({one.content_hash for one in told}) == 3
    for one in told:
        assert one.searchable_at is not None
        assert one.searchable_at >= one.durable_at
    assert told[0].readers == ("group:staff",)


def test_the_live_version_is_the_earlier_one_after_a_rollback(project: Project) -> None:
    first = updated(project, "one")
    write(project, "a.md", "# A\n\nThe second text.\n")
    updated(project, "two")
    with project.writer("back", "rollback"):
        rollback(project, first, run_id="back")
    told = versions(project, "a.md")
    assert [one.live for one in told] == [False, True]
    assert [one.live for one in versions(project, "b.md")] == [True]


def test_catching_up_twice_keeps_nothing_twice(project: Project) -> None:
    updated(project, "one")
    assert catch_up(project, run_id="again") == 0
    assert len(versions(project, "a.md")) == 1


def dies(_project: Project, *, run_id: str) -> int:
    """Of an update that is killed after its merge."""
    del run_id
    return 0


def two_updates_that_die_before_they_catch_up(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one changes a.md."""
    monkeypatch.setattr("pipelines.update.applying.versions.catch_up", dies)
    update(project, "one")
    write(project, "a.md", "# A\n\nThe second text.\n")
    update(project, "two")


def test_an_update_that_died_before_it_caught_up_is_made_good_by_the_next(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_updates_that_die_before_they_catch_up(project, monkeypatch)
    assert catch_up(project, run_id="three") == 3
    assert [(one.change, one.run_id) for one in versions(project, "a.md")] == [("changed", "two"), ("added", "one")]


def test_a_feed_that_was_vacuumed_away_leaves_a_version_that_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_updates_that_die_before_they_catch_up(project, monkeypatch)
    for file in Path(project.lake.uri(manifest.TABLE)).glob("_change_data/**/*.parquet"):
        file.unlink()
    assert catch_up(project, run_id="three") == 2
    assert catch_up(project, run_id="four") == 0
    told = versions(project, "a.md")
    assert [(one.change, one.version, one.live) for one in told] == [("gap", 2, True)]
    write(project, "a.md", "# A\n\nThe third text.\n")
    updated(project, "five")
    assert [one.change for one in versions(project, "a.md")] == ["changed", "gap"]


def test_a_manifest_that_was_lost_and_made_again_is_a_gap_and_no_mix_of_two_histories(project: Project) -> None:
    updated(project, "one")
    write(project, "a.md", "# A\n\nThe second text.\n")
    updated(project, "two")
    shutil.rmtree(project.lake.uri(manifest.TABLE))
    update(project, "three", full=True)
    catch_up(project, run_id="three")
    assert [one.change for one in versions(project, "a.md")] == ["gap", "changed", "added"]
    write(project, "a.md", "# A\n\nThe third text.\n")
    updated(project, "four")
    assert [one.change for one in versions(project, "a.md")] == ["changed", "gap", "changed", "added"]


def test_a_document_that_does_not_parse_is_quarantined_at_its_version(project: Project) -> None:
    updated(project, "one")
    (corpus(project) / "a.md").write_bytes(b"%PDF-1.7\nnot really")
    updated(project, "two")
    told = versions(project, "a.md")
    assert [(one.change, one.version) for one in told] == [("quarantined", 1), ("added", 1)]
    assert told[0].content_hash == told[1].content_hash


def test_a_uri_in_two_sources_gives_both_unless_one_is_named(project: Project, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.md").write_text("# A\n\nOf another source.\n")
    text = (tmp_path / "lockstep.yaml").read_text()
    more = "- {name: other, kind: filesystem, path: other, access: [{match: '**', readers: ['group:staff']}]}\n"
    (tmp_path / "lockstep.yaml").write_text(text.replace("sources:\n", "sources:\n" + more))
    both = Project(Project.open(tmp_path / "lockstep.yaml", Home(tmp_path / "home")).config, project.home)
    both = Project(both.config, project.home, index=FakeIndex())
    updated(both, "one")
    assert [found.source for found in history(both, "a.md")] == ["docs", "other"]
    assert [found.source for found in history(both, "a.md", "other")] == ["other"]


def test_an_unknown_uri_is_an_error_that_names_near_ones(project: Project) -> None:
    write(project, "travel/expenses.md", "# Expenses\n\nKeep the receipts.\n")
    updated(project, "one")
    with pytest.raises(LockstepError, match=r"near ones are: travel/expenses\.md"):
        history(project, "travel/expense.md")
    with pytest.raises(LockstepError, match=r"near ones are: travel/expenses\.md"):
        history(project, "Expenses.md")
    with pytest.raises(LockstepError, match="of source 'other'"):
        history(project, "a.md", "other")


def test_a_large_feed_is_told_in_parts_and_says_the_same(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        write(project, f"more/{number}.md", f"# {number}\n\nA text.\n")
    monkeypatch.setattr("pipelines.update.applying.versions.catch_up", lambda *_, **__: 0)
    update(project, "one", approve_deletions=True)
    for number in range(0, 40, 2):
        write(project, f"more/{number}.md", f"# {number}\n\nAnother text, which is longer.\n")
    (corpus(project) / "more" / "1.md").unlink()
    update(project, "two", approve_deletions=True)
    monkeypatch.undo()
    whole = project.lake.changes(manifest.TABLE, -1, project.lake.version(manifest.TABLE))
    assert whole is not None
    monkeypatch.setattr("pipelines.lake.reading.PORTION_ROWS", 7)
    monkeypatch.setitem(portions.__kwdefaults__, "rows_each", 7)
    parts = project.lake.change_parts(manifest.TABLE, -1, project.lake.version(manifest.TABLE))
    assert parts is not None
    found = list(parts)
    assert len(found) > 5
    assert max(map(len, found)) < len(whole)
    order = [(name, "ascending") for name in ("_commit_version", "doc_id", "_change_type")]
    assert pa.concat_tables(found).sort_by(order).equals(whole.sort_by(order))
    assert catch_up(project, run_id="later") == 42 + 21
    assert [v.change for v in versions(project, "more/2.md")] == ["changed", "added"]
    assert [v.change for v in versions(project, "more/1.md")] == ["deleted", "added"]
