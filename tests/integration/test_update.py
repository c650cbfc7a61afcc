"""What an update does, and how much it has to do: real tables, a real Milvus Lite, a real (tiny) encoder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.errors import GateFailed, MassDeletionRefused, SnapshotNotFound, SourceError
from pipelines.home import Home
from pipelines.lake import dead_letters, snapshots
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from pipelines.update.plan import plan
from pipelines.update.snapshot.rollback import rollback
from pipelines.update.snapshot.verify import verify
from pipelines.update.upkeep.status import status
from tests.updating import open_project, update

pytestmark = pytest.mark.integration

Milvus = dict[str, str]
STAFF = ["group:staff"]
HR = ["group:hr"]


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, milvus: Milvus) -> Project:
    """Five documents: two for HR, three for everybody."""
    opened = open_project(tmp_path, encoder={"model": str(tiny_model)}, milvus=milvus)
    write(opened, "leave.md", "# Leave\n\nStaff have 30 days of leave a year.\n\n## Carry over\n\nFive days at most.\n")
    write(opened, "travel.md", "# Travel\n\nTake the train.\n\n# Meals\n\nThe allowance is 46 euros.\n")
    write(opened, "notes.txt", "The quay wall is being rebuilt until May.\n")
    write(opened, "hr/bands.csv", "band,euros\nA,40000\nB,60000\n")
    write(opened, "hr/pay.txt", "Pay day is the 27th.\n")
    return opened


def write(project: Project, uri: str, text: str) -> None:
    path = corpus(project) / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def corpus(project: Project) -> Path:
    return project.home.root.parent / "corpus"


def ask(project: Project, question: str, principals: list[str] = STAFF, *, mode: str = "bm25") -> list[str]:
    answer = Asker(project).ask([question], principals, k=10, mode=mode)
    return [hit.uri for hit in answer.hits[0]]


def clean_digest(project: Project, folder: Path) -> str:
    """The digest of a build of the same corpus from nothing, in another data folder."""
    fresh = Project(project.config.model_copy(update={"index": "clean"}), Home(folder / "clean"))
    return update(fresh, "clean").candidate.digest


def texts_of(project: Project) -> set[str]:
    return set(project.lake.read("embeddings", ["text_hash"])["text_hash"].to_pylist())


def test_the_first_update_makes_every_document_searchable_for_its_readers(project: Project) -> None:
    done = update(project)
    assert done.manifest.added == done.manifest.active == 5
    assert done.promotion.promoted
    assert done.encoded.encoded == done.encoded.total > 0
    assert ask(project, "allowance")[0] == "travel.md"
    assert ask(project, "pay day") != ["hr/pay.txt"]
    assert ask(project, "pay day", HR)[0] == "hr/pay.txt"
    assert ask(project, "pay day", []) == []
    assert ask(project, "allowance", HR) == []
    assert verify(project).ok


def test_a_second_update_with_nothing_changed_does_nothing(project: Project) -> None:
    first = update(project)
    versions = project.lake.versions()
    state = project.index().read_state(first.promotion.collection)
    second = update(project, "second")
    assert project.lake.versions() == versions
    assert project.index().read_state(first.promotion.collection) == state
    assert second.encoded.encoded == second.chunks.added == second.candidate.upserted == second.candidate.deleted == 0
    assert not second.candidate.built
    assert not second.promotion.promoted
    assert second.manifest.unchanged == 5
    assert second.candidate.snapshot_id == first.candidate.snapshot_id


def test_an_edit_encodes_only_its_new_texts_and_the_answer_follows(project: Project) -> None:
    update(project)
    before = texts_of(project)
    write(project, "travel.md", "# Travel\n\nTake the train.\n\n# Meals\n\nThe allowance is 52 euros.\n")
    done = update(project, "edit")
    assert (done.manifest.changed, done.manifest.added, done.manifest.deleted) == (1, 0, 0)
    assert done.encoded.encoded == len(texts_of(project) - before) > 0
    answer = Asker(project).ask(["allowance"], STAFF, mode="bm25").hits[0][0]
    assert "52 euros" in answer.text
    assert verify(project).ok


def test_in_steady_state_an_update_writes_only_the_rows_that_differ(project: Project) -> None:
    update(project)
    write(project, "notes.txt", "The quay wall is being rebuilt until June.\n")
    update(project, "fills the second slot")
    write(project, "hr/pay.txt", "Pay day is the 28th.\n")
    done = update(project, "third")
    assert done.candidate.kind == "incremental"
    # The slot had missed the second edit too: one row each comes and goes.
    assert (done.candidate.upserted, done.candidate.deleted) == (2, 2)
    assert set(done.candidate.touched) and len(done.candidate.touched) == 2
    assert verify(project).ok


def test_an_incremental_build_has_the_digest_of_a_full_one(project: Project, tmp_path: Path) -> None:
    update(project)
    write(project, "leave.md", "# Leave\n\nStaff have 31 days.\n\n## Carry over\n\nFive days at most.\n")
    (corpus(project) / "notes.txt").unlink()
    write(project, "new.html", "<html><body><h1>New</h1><p>Something new.</p></body></html>")
    update(project, "second")
    write(project, "copy.md", (corpus(project) / "travel.md").read_text())
    third = update(project, "third")
    assert third.candidate.kind == "incremental"
    assert third.candidate.digest == clean_digest(project, tmp_path)
    rebuilt = update(project, "rebuild", full=True)
    assert rebuilt.candidate.kind == "full"
    assert rebuilt.candidate.digest == third.candidate.digest
    assert rebuilt.encoded.encoded == 0


def test_renaming_files_encodes_nothing(project: Project) -> None:
    update(project)
    (corpus(project) / "travel.md").rename(corpus(project) / "journeys.md")
    (corpus(project) / "leave.md").rename(corpus(project) / "absence.md")
    done = update(project, "renamed")
    assert (done.manifest.added, done.manifest.deleted) == (2, 2)
    assert (done.parsed.parsed, done.chunks.added, done.encoded.encoded) == (0, 0, 0)
    assert ask(project, "allowance")[0] == "journeys.md"


def test_a_change_of_rules_moves_readers_and_encodes_nothing(project: Project, tmp_path: Path, milvus: Milvus) -> None:
    update(project)
    assert ask(project, "pay day", ["group:payroll"]) == []
    access = [{"match": "hr/pay*", "readers": ["group:payroll"]}, {"match": "**", "readers": ["group:staff"]}]
    path = corpus(project)
    sources = [{"name": "docs", "kind": "filesystem", "path": str(path), "access": access}]
    changed = open_project(tmp_path, encoder=project.config.encoder.model_dump(), sources=sources, milvus=milvus)
    done = update(changed, "rules")
    assert (done.manifest.access_changed, done.manifest.changed, done.manifest.unchanged) == (2, 0, 5)
    assert (done.parsed.parsed, done.chunks.added, done.encoded.encoded) == (0, 0, 0)
    assert ask(changed, "pay day", ["group:payroll"])[0] == "hr/pay.txt"
    assert "hr/pay.txt" not in ask(changed, "pay day", HR)
    assert "hr/bands.csv" in ask(changed, "band euros", STAFF)
    assert verify(changed).ok


def test_a_document_that_no_rule_covers_is_for_the_admin_role_alone(
    tmp_path: Path, tiny_model: Path, milvus: Milvus
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "secret.txt").write_text("The combination is 1234.")
    sources = [{"name": "docs", "kind": "filesystem", "path": str(tmp_path / "corpus")}]
    project = open_project(tmp_path, encoder={"model": str(tiny_model)}, sources=sources, milvus=milvus)
    update(project)
    assert ask(project, "combination", ["group:staff", "user:root", "role:user"]) == []
    assert ask(project, "combination", ["role:admin"]) == ["secret.txt"]


def test_a_touched_file_is_read_again_and_changes_nothing_in_the_index(project: Project) -> None:
    first = update(project)
    os.utime(corpus(project) / "travel.md", (1_700_000_000, 1_700_000_000))
    done = update(project, "touched")
    assert done.changes.fetched >= 1
    assert (done.manifest.changed, done.manifest.unchanged) == (0, 5)
    assert done.candidate.snapshot_id == first.candidate.snapshot_id
    assert done.encoded.encoded == 0


def test_a_document_that_no_longer_parses_keeps_serving_its_last_good_version(project: Project) -> None:
    update(project)
    (corpus(project) / "leave.md").write_bytes(b"%PDF-1.7 broken")
    done = update(project, "broken")
    assert (done.manifest.quarantined, done.manifest.active) == (1, 5)
    assert "leave.md" in ask(project, "days of leave")
    letters = dead_letters.open_letters(project.lake)
    assert "leave.md" in letters["uri"].to_pylist()
    versions = project.lake.versions()
    again = update(project, "again")
    assert again.parsed.failed == 0
    assert project.lake.versions() == versions
    write(project, "leave.md", "# Leave\n\nStaff have 33 days of leave a year.\n")
    healed = update(project, "healed")
    assert healed.manifest.changed == 1
    assert "leave.md" not in dead_letters.open_letters(project.lake)["uri"].to_pylist()


def test_a_source_that_vanished_deletes_nothing(project: Project) -> None:
    first = update(project)
    shutil.move(corpus(project), corpus(project).with_name("elsewhere"))
    with pytest.raises(SourceError, match="docs"):
        update(project, "gone")
    assert ask(project, "allowance")[0] == "travel.md"
    shutil.move(corpus(project).with_name("elsewhere"), corpus(project))
    assert update(project, "back").candidate.snapshot_id == first.candidate.snapshot_id


def test_the_guard_asks_before_most_documents_are_deleted(project: Project) -> None:
    update(project)
    for path in list(corpus(project).rglob("*.*")):
        path.unlink()
    with pytest.raises(MassDeletionRefused, match="approve-deletions"):
        update(project, "emptied")
    assert ask(project, "allowance")[0] == "travel.md"
    done = update(project, "approved", approve_deletions=True)
    assert done.manifest.deleted == 5
    assert ask(project, "allowance") == []
    assert verify(project).ok
    actions = project.lake.read("audit_log").sort_by("sequence")["action"].to_pylist()
    assert actions == ["promote", "approve_deletions", "promote"]


def test_a_source_that_left_the_configuration_keeps_serving_until_it_is_approved(
    project: Project, tmp_path: Path, milvus: Milvus
) -> None:
    update(project)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("Another source.")
    access = [{"match": "**", "readers": STAFF}]
    sources = [{"name": "other", "kind": "filesystem", "path": str(tmp_path / "other"), "access": access}]
    changed = open_project(tmp_path, encoder=project.config.encoder.model_dump(), sources=sources, milvus=milvus)
    done = update(changed, "without docs")
    assert [one.source for one in done.changes.sources if one.error] == ["docs"]
    assert ask(changed, "allowance")[0] == "travel.md"
    update(changed, "approved", approve_deletions=True)
    assert "travel.md" not in ask(changed, "allowance")
    assert ask(changed, "another source") == ["a.txt"]


def test_rollback_brings_the_old_answer_back_until_something_new_comes(project: Project) -> None:
    first = update(project)
    write(project, "travel.md", "# Meals\n\nThe allowance is 52 euros.\n")
    second = update(project, "second")
    report = rollback(project, run_id="back")
    assert report.snapshot_id == first.candidate.snapshot_id
    assert not report.rebuilt
    assert "46 euros" in Asker(project).ask(["allowance"], STAFF, mode="bm25").hits[0][0].text
    held = update(project, "nothing new")
    assert held.candidate.snapshot_id == first.candidate.snapshot_id
    assert not held.promotion.promoted
    forward = rollback(project, second.candidate.snapshot_id, run_id="forward")
    assert forward.snapshot_id == second.candidate.snapshot_id
    rollback(project, run_id="back again")
    write(project, "notes.txt", "The quay wall is finished.\n")
    third = update(project, "something new")
    assert third.promotion.promoted
    assert "52 euros" in Asker(project).ask(["allowance"], STAFF, mode="bm25").hits[0][0].text
    assert verify(project).ok


def test_a_snapshot_whose_slot_was_reused_is_built_again_from_the_tables(project: Project) -> None:
    first = update(project)
    for number in range(3):
        write(project, "notes.txt", f"Version {number} of the notes.\n")
        update(project, f"edit {number}")
    report = rollback(project, first.candidate.snapshot_id, run_id="far back")
    assert report.rebuilt
    assert "quay wall" in Asker(project).ask(["quay"], STAFF, mode="bm25").hits[0][0].text
    found = verify(project)
    assert found.ok
    assert found.actual_digest == first.candidate.digest


def test_there_is_nothing_to_roll_back_to_after_the_first_update(project: Project) -> None:
    with pytest.raises(SnapshotNotFound, match="update"):
        rollback(project, run_id="too early")
    update(project)
    with pytest.raises(SnapshotNotFound, match="snapshots"):
        rollback(project, run_id="back")
    with pytest.raises(SnapshotNotFound, match="no snapshot"):
        rollback(project, "ffff", run_id="back")


def test_verify_finds_a_row_that_was_changed_or_removed_behind_our_back(project: Project) -> None:
    done = update(project)
    index, collection = project.index(), done.promotion.collection
    victim = next(iter(index.row_hashes(collection)))
    index.delete(collection, [victim])
    report = verify(project)
    assert not report.ok
    assert report.rows == report.expected_rows - 1
    assert len(report.differing_documents) == 1
    assert update(project, "full", full=True).promotion.promoted
    assert verify(project).ok


def test_a_candidate_that_fails_a_gate_is_not_promoted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    first = update(project)
    write(project, "notes.txt", "Something else.\n")
    index = project.index()
    real = index.upsert
    monkeypatch.setattr(index, "upsert", lambda name, rows, progress=None: real(name, rows.slice(1), progress))
    with pytest.raises(GateFailed, match="row_count_parity"):
        update(project, "loses a row")
    monkeypatch.undo()
    assert snapshots.live(snapshots.history(project.lake, "test")).snapshot_id == first.candidate.snapshot_id
    assert "quay" in Asker(project).ask(["quay"], STAFF, mode="bm25").hits[0][0].text
    assert update(project, "repaired", full=True).promotion.promoted
    assert verify(project).ok


def test_another_model_means_a_full_build_and_queries_use_the_live_snapshots_own(
    project: Project, tmp_path: Path, milvus: Milvus
) -> None:
    from tests.tiny_model import write_tiny_model

    first = update(project)
    other = write_tiny_model(tmp_path / "other-model", seed=8, dimension=48)
    changed = open_project(tmp_path, encoder={"model": str(other)}, milvus=milvus)
    assert ask(changed, "allowance", mode="dense")  # today's configuration names another model; the snapshot decides
    done = update(changed, "new model")
    assert done.candidate.kind == "full"
    assert (done.chunks.added > 0) == (done.candidate.rows != first.candidate.rows) or done.encoded.encoded > 0
    assert ask(changed, "allowance", mode="dense")
    assert verify(changed).ok


def test_plan_tells_what_the_update_then_does_and_changes_nothing(project: Project) -> None:
    predicted = plan(project)
    assert set(project.lake.versions().values()) == {-1}
    done = update(project)
    assert (predicted.added, predicted.to_encode) == (5, done.encoded.encoded)
    write(project, "travel.md", "# Travel\n\nTake the boat.\n\n# Meals\n\nThe allowance is 46 euros.\n")
    (corpus(project) / "notes.txt").rename(corpus(project) / "renamed.txt")
    versions = project.lake.versions()
    predicted = plan(project)
    assert project.lake.versions() == versions
    done = update(project, "second")
    assert (predicted.added, predicted.changed, predicted.deleted) == (1, 1, 1)
    assert (done.manifest.added, done.manifest.changed, done.manifest.deleted) == (1, 1, 1)
    assert predicted.to_encode == done.encoded.encoded
    assert plan(project).to_encode == 0


def test_an_empty_corpus_becomes_an_empty_searchable_index(tmp_path: Path, tiny_model: Path, milvus: Milvus) -> None:
    project = open_project(tmp_path, encoder={"model": str(tiny_model)}, milvus=milvus)
    done = update(project)
    assert done.candidate.rows == 0
    assert ask(project, "anything") == []
    assert verify(project).ok


def test_documents_with_the_same_content_share_texts_and_keep_their_own_readers(project: Project) -> None:
    write(project, "hr/copy.txt", "The quay wall is being rebuilt until May.\n")
    done = update(project)
    rows = project.lake.read("documents")
    same = rows.filter(pc.is_in(rows["uri"], value_set=pa.array(["notes.txt", "hr/copy.txt"])))
    assert len(set(same["content_hash"].to_pylist())) == 1
    assert ask(project, "quay wall") == ["notes.txt"]
    assert ask(project, "quay wall", HR) == ["hr/copy.txt"]
    assert sorted(ask(project, "quay wall", STAFF + HR)) == ["hr/copy.txt", "notes.txt"]
    assert done.encoded.total < done.candidate.rows


def test_status_is_unhealthy_before_and_healthy_after_the_first_update(project: Project) -> None:
    assert status(project).health == "unhealthy"
    update(project)
    assert status(project).health == "healthy"


def test_a_plan_tells_that_the_other_slot_is_still_to_be_filled(project: Project) -> None:
    assert plan(project).rows_once == 0
    rows = update(project).candidate.rows
    assert plan(project).rows_once == rows
    write(project, "notes.txt", "Another quay wall.\n")
    update(project, "fills it")
    assert plan(project).rows_once == 0
