"""Maintenance removes what nothing refers to, and nothing else."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import IndexUnavailable, SnapshotNotFound
from pipelines.identity import content_hash
from pipelines.lake import blobs, snapshots, term_statistics
from pipelines.lake.events import Event
from pipelines.project import Project
from pipelines.update.applying.versions import catch_up
from pipelines.update.history import versions
from pipelines.update.looking import progress
from pipelines.update.snapshot.rollback import rollback
from pipelines.update.snapshot.verify import verify
from pipelines.update.upkeep.maintenance import MaintenanceReport, maintain
from tests.fakes.index import FakeIndex
from tests.integration._actions import _ParsingHere
from tests.stress import STRESS
from tests.updating import Update, open_project, update


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse in this process; a blob counts as untouched at once."""
    monkeypatch.setattr("pipelines.parsing.stage.Pool", _ParsingHere)
    monkeypatch.setattr(blobs, "_UNTOUCHED_SECONDS", -1.0)


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Project:
    return make_project(tmp_path, tiny_model)


def make_project(folder: Path, model: Path, *, keep: int = 2) -> Project:
    opened = open_project(folder, encoder={"model": str(model)}, retention={"snapshots": keep})
    for number in range(4):
        write(opened, f"{number}.md", f"# Document {number}\n\nIts first text.\n")
    return Project(opened.config, opened.home, index=FakeIndex())


def write(project: Project, uri: str, text: str) -> None:
    (project.home.root.parent / "corpus" / uri).write_text(text, encoding="utf-8")


def edited(project: Project, number: int, *, uri: str = "0.md") -> Update:
    write(project, uri, f"# Edited {number}\n\nThis is text number {number}.\n")
    done = update(project, f"run-{number}", approve_deletions=True)
    catch_up(project, run_id=f"run-{number}")
    return done


def maintained(project: Project) -> MaintenanceReport:
    with project.writer("maintenance", "maintenance"):
        return maintain(project, run_id="maintenance")


def clean_digest(project: Project, folder: Path) -> str:
    fresh = Project(project.config, replace(project.home, root=folder), index=FakeIndex())
    return update(fresh, full=True).candidate.digest


def digests(project: Project) -> dict[str, str]:
    return {s.snapshot_id: s.digest for s in snapshots.history(project.lake, project.alias)}


def go_back(project: Project, snapshot_id: str) -> str:
    """The digest of what is live after a rollback."""
    with project.writer("back", "rollback"):
        report = rollback(project, snapshot_id, run_id="back")
    assert verify(project).ok
    return digests(project)[report.snapshot_id]


def test_what_no_retained_snapshot_refers_to_is_gone_and_the_bytes_with_it(project: Project) -> None:
    for number in range(6):
        edited(project, number)
    chunks, texts = project.lake.count("chunks"), project.lake.count("embeddings")
    report = maintained(project)
    assert report.retained_snapshots == 2
    assert report.pruned_snapshots == 4
    assert report.reclaimed_bytes > 0
    assert report.bytes_after == report.bytes_before - report.reclaimed_bytes
    assert project.lake.count("chunks") < chunks
    assert project.lake.count("embeddings") < texts
    assert len(term_statistics.stored(project.lake)) == 2
    assert verify(project).ok


def test_a_second_maintenance_finds_nothing_to_do(project: Project) -> None:
    for number in range(4):
        edited(project, number)
    maintained(project)
    before = {name: v for name, v in project.lake.versions().items() if v >= 0}
    again = maintained(project)
    assert (again.pruned_rows, again.pruned_blobs, again.pruned_snapshots) == (0, 0, 0)
    assert {name: v for name, v in project.lake.versions().items() if v >= 0} == before
    assert sum(table.removed_files for table in again.tables) == 0


def test_a_dry_run_tells_and_changes_nothing(project: Project, tmp_path: Path) -> None:
    for number in range(4):
        edited(project, number)
    before = sorted(path for path in project.home.root.rglob("*") if path.suffix != ".lock")
    told = maintain(project, run_id="dry", dry_run=True)
    assert sorted(path for path in project.home.root.rglob("*") if path.suffix != ".lock") == before
    done = maintained(project)
    assert (told.pruned_rows, told.pruned_blobs) == (done.pruned_rows, done.pruned_blobs)
    assert told.pruned_snapshots == done.pruned_snapshots == 2


def test_every_retained_snapshot_can_still_be_brought_back_with_its_digest(project: Project, tmp_path: Path) -> None:
    made = [edited(project, number).promotion.snapshot_id for number in range(6)]
    known = digests(project)
    maintained(project)
    assert go_back(project, made[-2]) == known[made[-2]]
    assert go_back(project, made[-1]) == known[made[-1]]


def test_a_snapshot_that_was_pruned_says_so(project: Project) -> None:
    first = edited(project, 0).promotion.snapshot_id
    for number in range(1, 5):
        edited(project, number)
    maintained(project)
    with project.writer("back", "rollback"), pytest.raises(SnapshotNotFound, match=r"pruned.*retention\.snapshots"):
        rollback(project, first, run_id="back")
    assert verify(project).ok


def test_the_next_update_is_incremental_and_equals_a_clean_build(project: Project, tmp_path: Path) -> None:
    for number in range(5):
        edited(project, number)
    maintained(project)
    done = edited(project, 9, uri="1.md")
    assert done.candidate.kind == "incremental"
    assert done.encoded.encoded == 1
    assert done.candidate.digest == clean_digest(project, tmp_path / "clean")


def test_a_slot_that_lags_behind_is_still_brought_up_by_difference(project: Project, tmp_path: Path) -> None:
    edited(project, 0)
    lagging = edited(project, 1).promotion.snapshot_id
    with project.writer("back", "rollback"):
        first = rollback(project, run_id="back").snapshot_id  # the slot of `lagging` is idle from here on
    assert first != lagging
    for number in range(3):
        maintained(project)
        write(project, "2.md", f"# Two\n\nVersion {number}.\n")
        with project.writer("only", "merge"):
            _merge_only(project)
    maintained(project)
    done = edited(project, 8)
    assert done.candidate.kind == "incremental"
    assert done.candidate.digest == clean_digest(project, tmp_path / "clean")
    assert verify(project).ok


def _merge_only(project: Project) -> None:
    from pipelines.update.applying import changes, manifest, parse

    changes.detect_changes(project, run_id="only")
    parse.parse_documents(project, run_id="only")
    manifest.merge_manifest(project, run_id="only")


def test_a_rollback_stays_after_maintenance(project: Project) -> None:
    for number in range(18):
        write(project, f"new-{number}.md", f"# New {number}\n\nText {number}.\n")
        with project.writer("only", "merge"):
            _merge_only(project)
    edited(project, 0)
    edited(project, 1)
    with project.writer("back", "rollback"):
        back = rollback(project, run_id="back").snapshot_id
    maintained(project)
    done = update(project, "nothing new")
    assert not done.candidate.built
    assert done.promotion.snapshot_id == back


def test_many_small_files_become_few_and_the_change_feed_goes_on(project: Project, tmp_path: Path) -> None:
    edited(project, 0)
    for number in range(17):
        edited(project, number, uri=f"new-{number}.md")
    before = {table: len(project.lake.file_sizes(table)) for table in ("chunks", "embeddings", "documents")}
    maintained(project)
    after = {table: len(project.lake.file_sizes(table)) for table in before}
    assert before["chunks"] > 1
    assert after["documents"] <= before["documents"] <= 9  # merges gather them as they go
    assert max(after["chunks"], after["embeddings"]) <= 2
    done = edited(project, 99)
    assert done.candidate.kind == "incremental"
    assert done.candidate.digest == clean_digest(project, tmp_path / "clean")
    assert [one.change for one in versions.history(project, "0.md")[0].versions] == ["changed", "added"]


def test_the_payload_of_an_open_letter_stays_and_goes_when_it_is_resolved(project: Project) -> None:
    edited(project, 0)
    broken = b"%PDF-1.7\nbroken"
    (project.home.root.parent / "corpus" / "broken.pdf").write_bytes(broken)
    edited(project, 1)
    maintained(project)
    assert project.blobs.exists(content_hash(broken))
    (project.home.root.parent / "corpus" / "broken.pdf").unlink()
    for number in range(2, 6):
        edited(project, number)
    maintained(project)
    assert not project.blobs.exists(content_hash(broken))


def test_a_deleted_document_leaves_tables_and_blobs_when_no_retained_snapshot_has_it(project: Project) -> None:
    secret = "# Secret\n\nNobody may keep this sentence.\n"
    write(project, "secret.md", secret)
    edited(project, 0)
    (project.home.root.parent / "corpus" / "secret.md").unlink()
    edited(project, 1)
    maintained(project)
    assert project.blobs.exists(content_hash(secret.encode()))  # the snapshot before can still be brought back
    edited(project, 2)
    edited(project, 3)
    maintained(project)
    assert not project.blobs.exists(content_hash(secret.encode()))
    files = [path for path in project.home.lake.rglob("*") if path.is_file()]
    left = [path for path in files if b"keep this sentence" in path.read_bytes()]
    assert not left
    assert not any("keep this sentence" in text for text in project.lake.read("chunks")["text"].to_pylist())


def test_snapshots_of_an_earlier_recipe_keep_what_they_are_made_from(project: Project) -> None:
    edited(project, 0)
    chunks = project.lake.count("chunks")
    config = project.config.model_copy(
        update={"chunking": project.config.chunking.model_copy(update={"max_tokens": 64})}
    )
    other = Project(config, project.home, index=project.index())
    update(other, "other")
    with_both = project.lake.count("chunks")
    assert with_both > chunks
    maintained(other)
    assert project.lake.count("chunks") == with_both
    for number in range(4):
        edited(other, number)
    maintained(other)
    fps = set(other.lake.read("chunks", ["recipe_fp"])["recipe_fp"].to_pylist())
    assert fps == set(other.recipe.keyed(other.lake.read("documents"))["recipe_fp"].to_pylist())


def test_without_its_index_nothing_is_pruned(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        edited(project, number)
    rows = project.lake.count("chunks")

    def unreachable(_: str) -> bool:
        raise IndexUnavailable("the index is away; start it and run this again")

    monkeypatch.setattr(project.index(), "exists", unreachable)
    with pytest.raises(IndexUnavailable):
        maintained(project)
    assert project.lake.count("chunks") == rows


def test_a_table_that_is_being_read_keeps_its_files_and_the_reader_ends_well(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.lake.files._PATIENCE_SECONDS", 0.0)
    for number in range(17):
        edited(project, number, uri=f"new-{number}.md")
    reader = Project(project.config, project.home, index=project.index()).lake
    batches = reader.scan("chunks", ["text"])
    first = next(batches)
    told = {table.table: table for table in maintained(project).tables}
    assert "reading it" in told["chunks"].note
    assert told["embeddings"].note == ""
    assert first.num_rows + sum(batch.num_rows for batch in batches) == 21
    again = {table.table: table for table in maintained(project).tables}
    assert again["chunks"].removed_files >= 16  # the rest was gathered while appending
    left = list((project.home.lake / "chunks").glob("*.parquet"))
    assert len(left) == len(project.lake.file_sizes("chunks")) <= 2


def test_bytes_that_are_stored_again_while_they_are_removed_stay(project: Project) -> None:
    edited(project, 0)
    key = project.blobs.put(b"announced again in this moment")
    os.utime(project.home.blobs / key[:2] / key, (1, 1))
    store = project.blobs

    class Announcing:
        """Names nothing, but somebody stores the bytes again when it is asked."""

        def __enter__(self) -> set[str]:
            store.put(b"announced again in this moment")
            return set()

        def __exit__(self, *_: object) -> None:
            pass

    import pipelines.lake.blobs as module

    module._UNTOUCHED_SECONDS = 3_600.0
    assert store.remove_unused(Announcing).blobs == 0
    assert store.read(key) == b"announced again in this moment"


# --- the log of announced changes ---

LONG_AGO = datetime.now(UTC) - timedelta(days=90)


def announce(project: Project, *events: Event) -> int:
    return project.events.append([replace(event, received_at=LONG_AGO) for event in events]).last_sequence


def upsert(uri: str, version: int, content: bytes = b"x") -> Event:
    return Event("docs", uri, "upsert", f"test@{version}", version=version, content=content)


def test_events_that_are_applied_old_and_overtaken_go_and_the_state_stays_the_same(project: Project) -> None:
    edited(project, 0)
    kinds = (
        upsert("a", 1, b"a1"),
        upsert("a", 3, b"a3"),
        upsert("a", 2, b"a2"),
        upsert("b", 1, b"b1"),
        Event("docs", "b", "delete", "t", version=2),
        Event("docs", "c", "changed", "watch"),
    )
    last = announce(project, *kinds)
    announce(project, Event("docs", "d", "changed", "watch"))
    before = project.events.state("docs").to_pylist()
    progress.change(project.home, "docs", observed_sequence=last, applied_sequence=last)
    maintained(project)
    assert project.events.state("docs").to_pylist() == before
    left = project.lake.read("change_events").sort_by("sequence").to_pylist()
    assert [(row["uri"], row["type"]) for row in left if row["origin"] in ("t", "watch") or row["version"]] == [
        ("a", "upsert"),
        ("b", "delete"),
        ("d", "changed"),
    ]
    assert project.blobs.exists(content_hash(b"a3"))
    assert not project.blobs.exists(content_hash(b"a1"))


def test_events_that_are_not_applied_stay_however_old_they_are(project: Project) -> None:
    edited(project, 0)
    announce(project, upsert("a", 1, b"a1"), upsert("a", 2, b"a2"), Event("docs", "c", "changed", "watch"))
    count = project.lake.count("change_events")
    maintained(project)
    assert project.lake.count("change_events") == count
    assert project.blobs.exists(content_hash(b"a1"))


def test_the_next_event_gets_a_sequence_that_no_progress_has_passed(project: Project) -> None:
    edited(project, 0)
    last = announce(project, Event("docs", "c", "changed", "watch"), Event("docs", "e", "changed", "watch"))
    progress.change(project.home, "docs", observed_sequence=last, applied_sequence=last)
    maintained(project)
    assert announce(project, Event("docs", "f", "changed", "watch")) > last


def test_events_of_a_source_that_is_not_configured_stay(project: Project) -> None:
    edited(project, 0)
    other = replace(upsert("a", 1), source="gone")
    announce(project, other, replace(other, version=2), Event("docs", "z", "changed", "watch"))
    maintained(project)
    rows = project.lake.read("change_events", where=pc.field("source") == "gone")
    assert rows.num_rows == 2


# --- any history ---

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["edit", "delete", "copy", "maintain", "back", "full"]), st.integers(0, 5)),
    min_size=3,
    max_size=12,
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("histories")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.stress
@settings(
    max_examples=60 if STRESS else 6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, keep=st.integers(1, 3))
def test_after_any_history_nothing_retained_is_lost(
    steps: list[Step], keep: int, cases: Path, tiny_model: Path
) -> None:
    folder = cases / f"case-{time.monotonic_ns()}"
    folder.mkdir()
    project = make_project(folder, tiny_model, keep=keep)
    edited(project, 1000)
    for position, (action, number) in enumerate(steps):
        _act(project, action, number, position)
    maintained(project)
    assert verify(project).ok
    known = {s.snapshot_id: s for s in snapshots.history(project.lake, project.alias)}
    newest = [s for s in known.values() if s.status in ("live", "retired")][-keep:]
    assert edited(project, 2000).candidate.digest == clean_digest(project, folder / "clean")
    for snapshot in newest:
        assert go_back(project, snapshot.snapshot_id) == snapshot.digest


def _act(project: Project, action: str, number: int, position: int) -> None:
    corpus = project.home.root.parent / "corpus"
    if action == "maintain":
        maintained(project)
        return
    if action == "back":
        history = snapshots.history(project.lake, project.alias)
        retired = [s for s in history if s.status == "retired"][-1:]
        if retired:
            go_back(project, retired[0].snapshot_id)
        return
    if action == "edit":
        write(project, f"{number}.md", f"# Edit\n\nText {position % 3} of {number}.\n")
    elif action == "delete":
        (corpus / f"{number}.md").unlink(missing_ok=True)
        write(project, "keeper.md", "# Keeper\n\nThere is always one document.\n")
    elif action == "copy":
        write(project, f"copy-{number}.md", "# Copy\n\nThe same text everywhere.\n")
    update(project, f"run-{position}", full=action == "full", approve_deletions=True)
