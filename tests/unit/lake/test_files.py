"""Which files of a table are unneeded, and that readers keep theirs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.lake import files
from pipelines.lake.manifest import active_documents, changes_between
from pipelines.lake.schemas import ACL_SETS
from pipelines.lake.tables import Lake
from tests.unit.lake.test_tables import document, documents

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A manifest of eight versions: one document that changes each time."""
    made = Lake(tmp_path / "lake")
    for number in range(8):
        made.merge("documents", documents(document("a", content=f"{number}")), key="doc_id", run_id=str(number))
    return made


def folder(lake: Lake) -> Path:
    return Path(lake.uri("documents"))


def test_named_versions_and_the_feed_after_the_mark_stay_and_the_rest_goes(lake: Lake) -> None:
    removed = files.remove_unneeded(folder(lake), versions=(3, 5), feed_since=5)
    assert removed.removed
    assert removed.files > 0
    for version in (3, 5, 8):
        assert active_documents(lake, version).num_rows == 1
    changes = changes_between(lake, 5, 8)
    assert changes is not None
    assert changes.before["content_hash"][0].as_py()[0] == "4"
    assert changes.after["content_hash"][0].as_py()[0] == "7"
    assert changes_between(lake, 1, 8) is None


def test_removing_makes_no_version(lake: Lake) -> None:
    before = lake.version("documents")
    files.remove_unneeded(folder(lake), feed_since=before)
    assert lake.version("documents") == before
    assert files.remove_unneeded(folder(lake), feed_since=before).files == 0


def test_a_file_that_no_commit_names_goes_only_when_it_is_old(lake: Lake) -> None:
    stray = folder(lake) / "part-00000-stray.parquet"
    stray.write_bytes(b"of a commit that is on its way")
    files.remove_unneeded(folder(lake), feed_since=0)
    assert stray.exists()
    os.utime(stray, (1, 1))
    files.remove_unneeded(folder(lake), feed_since=0)
    assert not stray.exists()


def test_a_dry_run_counts_and_keeps(lake: Lake) -> None:
    told = files.remove_unneeded(folder(lake), feed_since=8, dry_run=True)
    assert told.files > 0
    assert not told.removed
    assert files.remove_unneeded(folder(lake), feed_since=8).files == told.files


def test_a_table_that_was_never_written_has_no_files(tmp_path: Path) -> None:
    assert files.remove_unneeded(tmp_path / "none").files == 0
    with files.reading(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written_can_be_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refused(path: Path, *args: object, **options: object) -> object:
        if path.name == "_reading.lock":
            raise PermissionError(13, "read-only")
        return real(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refused)
    assert lake.read("documents").num_rows == 1
    assert not files.remove_unneeded(folder(lake), feed_since=8).removed


def test_a_table_written_anew_keeps_what_is_asked_for_in_one_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    lake = Lake(tmp_path / "lake")
    for number in range(5):
        row = {"acl_id": number, "tenant": "default", "principals": ["group:a"], "created_at": NOW}
        lake.append("acl_sets", pa.Table.from_pylist([row], schema=ACL_SETS), run_id="r")
    assert lake.rewrite("acl_sets", keep=lambda batch: pc.greater(batch["acl_id"], 2), run_id="upkeep") == 3
    assert sorted(lake.read("acl_sets")["acl_id"].to_pylist()) == [3, 4]
    assert len(lake.file_sizes("acl_sets")) == 1
    assert lake.rewrite("acl_sets", keep=lambda batch: pc.greater(batch["acl_id"], 9), run_id="upkeep") == 2
    assert lake.read("acl_sets").num_rows == 0
    assert lake.history("acl_sets")[0]["lockstep.run_id"] == "upkeep"


def test_the_manifest_is_never_written_anew(lake: Lake) -> None:
    before = lake.version("documents")
    assert lake.rewrite("documents", run_id="upkeep") == 0
    assert lake.version("documents") == before
