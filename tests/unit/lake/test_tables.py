"""Delta tables: versions, appends, merges, the change feed, and damaged folders."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.errors import LakeError
from pipelines.lake import snapshots
from pipelines.lake.manifest import active_documents, changes_between
from pipelines.lake.schemas import ACL_SETS, DOCUMENTS, TABLES
from pipelines.lake.tables import Lake
from tests.fakes.snapshots import snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def document(uri: str, *, content: str = "a", status: str = "active", version: int = 1) -> dict[str, object]:
    return {
        "doc_id": uri,
        "source": "s",
        "uri": uri,
        "tenant": "t",
        "acl_id": 1,
        "classification": "c",
        "media_type": "text/plain",
        "size_bytes": 1,
        "etag": None,
        "modified_at": NOW,
        "content_hash": content * 64,
        "version": version,
        "title": uri,
        "metadata": "{}",
        "status": status,
        "deleted_at": None,
        "retain_until": None,
        "quarantined_hash": None,
        "run_id": "r",
        "updated_at": NOW,
    }


def documents(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=DOCUMENTS)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_a_table_that_was_never_written_is_empty_and_has_no_version(lake: Lake) -> None:
    assert lake.version("documents") == -1
    assert lake.read("documents").num_rows == 0
    assert lake.read("documents").schema == DOCUMENTS


def test_appending_no_rows_makes_no_commit(lake: Lake) -> None:
    lake.append("acl_sets", ACL_SETS.empty_table(), run_id="r")
    assert lake.version("acl_sets") == -1


def test_parts_are_one_commit_and_a_merge_into_nothing_is_one_too(lake: Lake) -> None:
    parts = [documents(), documents(document("a"), document("b")), documents(document("c"))]
    assert (
        lake.merge_parts("documents", iter(parts), key="doc_id", rows=3, run_id="r") == lake.version("documents") == 1
    )
    assert sorted(lake.read("documents")["doc_id"].to_pylist()) == ["a", "b", "c"]
    again = [documents(document("b", content="b")), documents(document("d"))]
    lake.merge_parts("documents", iter(again), key="doc_id", rows=2, run_id="r")
    rows = {row["doc_id"]: row["content_hash"][0] for row in lake.read("documents").to_pylist()}
    assert rows == {"a": "a", "b": "b", "c": "a", "d": "a"}
    before = lake.version("documents")
    assert lake.append_parts("documents", [documents()], rows=0, run_id="r") == before


def test_the_files_of_many_appends_are_gathered_however_they_came(lake: Lake) -> None:
    for number in range(40):
        row = {"acl_id": number, "tenant": "t", "principals": [], "created_at": NOW}
        rows = pa.Table.from_pylist([row], schema=ACL_SETS)
        lake.append_parts("acl_sets", [rows], rows=1, run_id="r")
    assert lake.count("acl_sets") == 40
    assert len(lake.file_sizes("acl_sets")) < 20


def test_what_making_a_part_raises_is_raised_and_nothing_is_added(lake: Lake) -> None:
    def parts() -> Iterator[pa.Table]:
        yield documents(document("a"))
        lake.read("acl_sets")  # what makes a part may read the tables
        raise LookupError("the second part cannot be made")

    with pytest.raises(LookupError, match="second part"):
        lake.append_parts("documents", parts(), rows=2, run_id="r")
    assert lake.read("documents").num_rows == 0


def test_an_older_version_can_be_read(lake: Lake) -> None:
    lake.merge("documents", documents(document("a")), key="doc_id", run_id="1")
    lake.merge("documents", documents(document("b")), key="doc_id", run_id="2")
    assert active_documents(lake, 1)["uri"].to_pylist() == ["a"]
    assert sorted(active_documents(lake)["uri"].to_pylist()) == ["a", "b"]


def test_rows_of_another_schema_are_refused_and_nothing_is_written(lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"columns \["):
        lake.append("acl_sets", pa.table({"acl_id": [1]}), run_id="r")
    assert lake.version("acl_sets") == -1


def test_the_commit_records_the_run(lake: Lake) -> None:
    lake.merge("documents", documents(document("a")), key="doc_id", run_id="run-7")
    assert lake.history("documents")[0]["lockstep.run_id"] == "run-7"


def test_a_row_that_is_replaced_is_there_once_with_its_newest_values(lake: Lake) -> None:
    for snapshot_id, status in (("a", "building"), ("b", "building"), ("a", "live")):
        snapshots.record(lake, snapshot(snapshot_id, status=status, run_id=f"{snapshot_id} {status}"))
        assert lake.history("index_snapshots")[0]["lockstep.run_id"] == f"{snapshot_id} {status}"
    rows = lake.read("index_snapshots", ["snapshot_id", "status"]).to_pylist()
    assert sorted((row["snapshot_id"], row["status"]) for row in rows) == [("a", "live"), ("b", "building")]
    before = lake.version("index_snapshots")
    nothing = lake.read("index_snapshots").slice(0, 0)
    assert lake.replace("index_snapshots", nothing, key="snapshot_id", run_id="none") == before


def test_a_replacement_of_another_schema_is_refused_and_nothing_is_changed(lake: Lake) -> None:
    snapshots.record(lake, snapshot("a"))
    with pytest.raises(LakeError, match=r"columns \["):
        lake.replace("index_snapshots", pa.table({"snapshot_id": ["a"]}), key="snapshot_id", run_id="2")
    assert lake.read("index_snapshots")["status"].to_pylist() == ["live"]


def test_the_greatest_value_is_found_without_reading_rows(lake: Lake, tmp_path: Path) -> None:
    assert lake.greatest("acl_sets", "acl_id") is None
    for numbers in ((3, 9), (-4,), (7, 1)):
        rows = [{"acl_id": n, "tenant": "default", "principals": ["group:a"], "created_at": NOW} for n in numbers]
        lake.append("acl_sets", pa.Table.from_pylist(rows, schema=ACL_SETS), run_id="run")
    for file in (tmp_path / "lake" / "acl_sets").glob("*.parquet"):
        file.unlink()
    assert lake.greatest("acl_sets", "acl_id") == 9


def test_the_greatest_value_is_right_without_statistics_too(lake: Lake) -> None:
    rows = [{"acl_id": n, "tenant": "default", "principals": ["group:a"], "created_at": NOW} for n in (3, 9)]
    lake.append("acl_sets", pa.Table.from_pylist(rows, schema=ACL_SETS), run_id="run")
    DeltaTable(lake.uri("acl_sets")).alter.set_table_properties({"delta.dataSkippingStatsColumns": "created_at"})
    rows = [{"acl_id": n, "tenant": "default", "principals": ["group:a"], "created_at": NOW} for n in (11, 4)]
    lake.append("acl_sets", pa.Table.from_pylist(rows, schema=ACL_SETS), run_id="run")
    assert lake.greatest("acl_sets", "acl_id") == 11


def test_a_checkpoint_is_made_every_20_commits(lake: Lake, tmp_path: Path) -> None:
    for number in range(25):
        lake.merge("documents", documents(document("a", version=number)), key="doc_id", run_id="run")
    found = sorted(path.name[18:20] for path in (tmp_path / "lake" / "documents" / "_delta_log").glob("*.checkpoint.*"))
    assert found == ["19"]  # versions begin with 0


def test_changes_show_each_document_once_with_its_outermost_states(lake: Lake) -> None:
    lake.merge("documents", documents(document("kept"), document("edited"), document("gone")), key="doc_id", run_id="1")
    lake.merge("documents", documents(document("edited", content="b"), document("new")), key="doc_id", run_id="2")
    lake.merge("documents", documents(document("edited", content="c")), key="doc_id", run_id="3")
    lake.merge("documents", documents(document("gone", status="deleted")), key="doc_id", run_id="4")
    changes = changes_between(lake, 1, 4)
    assert changes is not None
    assert {r["uri"]: r["content_hash"][0] for r in changes.before.to_pylist()} == {"edited": "a", "gone": "a"}
    assert {r["uri"]: r["content_hash"][0] for r in changes.after.to_pylist()} == {"edited": "c", "new": "a"}
    assert changes.doc_ids == ["edited", "gone", "new"]


def test_a_document_that_came_and_went_between_two_versions_is_no_change(lake: Lake) -> None:
    lake.merge("documents", documents(document("kept")), key="doc_id", run_id="1")
    lake.merge("documents", documents(document("brief")), key="doc_id", run_id="2")
    lake.merge("documents", documents(document("brief", status="deleted")), key="doc_id", run_id="3")
    changes = changes_between(lake, 1, 3)
    assert changes is not None
    assert changes.doc_ids == []


def test_a_vacuumed_change_feed_is_told_apart_from_no_change(lake: Lake, tmp_path: Path) -> None:
    lake.merge("documents", documents(document("a")), key="doc_id", run_id="1")
    lake.merge("documents", documents(document("a", content="b")), key="doc_id", run_id="2")
    for file in (tmp_path / "lake" / "documents" / "_change_data").rglob("*.parquet"):
        file.unlink()
    assert changes_between(lake, 1, 2) is None
    assert changes_between(lake, 2, 2) is not None


def test_a_corrupt_log_names_the_table_and_the_next_step(lake: Lake, tmp_path: Path) -> None:
    lake.merge("documents", documents(document("a")), key="doc_id", run_id="1")
    (tmp_path / "lake" / "documents" / "_delta_log" / "00000000000000000000.json").write_text("{not json")
    with pytest.raises(LakeError) as caught:
        lake.read("documents")
    assert "documents" in str(caught.value)
    assert "backup" in str(caught.value)
    assert "<unknown>" not in str(caught.value)


def test_a_table_without_its_log_is_damaged_and_not_empty(lake: Lake, tmp_path: Path) -> None:
    lake.merge("documents", documents(document("a")), key="doc_id", run_id="1")
    log = tmp_path / "lake" / "documents" / "_delta_log"
    for file in log.iterdir():
        file.unlink()
    with pytest.raises(LakeError, match="no readable Delta log"):
        lake.read("documents")


def test_a_first_write_that_was_killed_before_its_commit_is_no_damage(lake: Lake, tmp_path: Path) -> None:
    lake.merge("documents", documents(document("a")), key="doc_id", run_id="1")
    log = tmp_path / "lake" / "documents" / "_delta_log"
    (log / "00000000000000000001.json").unlink()
    assert lake.read("documents").num_rows == 0
    lake.merge("documents", documents(document("b")), key="doc_id", run_id="2")
    assert lake.read("documents")["uri"].to_pylist() == ["b"]


def test_a_missing_data_file_is_an_error_that_names_the_table(lake: Lake, tmp_path: Path) -> None:
    lake.merge("documents", documents(document("a")), key="doc_id", run_id="1")
    for file in (tmp_path / "lake" / "documents").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(LakeError, match="documents"):
        lake.read("documents")


def _before_a_column_existed(monkeypatch: pytest.MonkeyPatch, column: str = "detected_at") -> None:
    older = pa.schema([field for field in DOCUMENTS if field.name != column])
    monkeypatch.setitem(TABLES, "documents", older)


def _older(*rows: dict[str, object]) -> pa.Table:
    return documents(*rows).drop_columns(["detected_at"])


def test_a_table_from_before_a_column_existed_is_read_with_nulls_there(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        _before_a_column_existed(then)
        lake.merge("documents", _older(document("a")), key="doc_id", run_id="1")
        lake.merge("documents", _older(document("b")), key="doc_id", run_id="2")
    before = lake.version("documents")
    assert lake.read("documents").schema == DOCUMENTS
    assert lake.read("documents")["detected_at"].null_count == 2
    assert active_documents(lake, 1)["uri"].to_pylist() == ["a"]
    assert lake.version("documents") == before


def test_such_a_table_gets_the_column_with_the_first_write_and_its_change_feed_goes_on(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        _before_a_column_existed(then)
        lake.merge("documents", _older(document("a"), document("b")), key="doc_id", run_id="1")
    before = lake.version("documents")
    lake.merge("documents", documents({**document("b", content="b"), "detected_at": NOW}), key="doc_id", run_id="2")
    assert {row["uri"]: row["detected_at"] for row in lake.read("documents").to_pylist()} == {"a": None, "b": NOW}
    changes = changes_between(lake, before, lake.version("documents"))
    assert changes is not None
    assert changes.before["detected_at"].to_pylist() == [None]
    assert changes.after["detected_at"].to_pylist() == [NOW]
    assert active_documents(lake, before)["detected_at"].to_pylist() == [None, None]


def test_a_table_that_lacks_a_column_which_cannot_be_empty_is_refused(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        _before_a_column_existed(then, "tenant")
        lake.merge("documents", documents(document("a")).drop_columns(["tenant"]), key="doc_id", run_id="1")
    with pytest.raises(LakeError, match=r"lacks the columns \['tenant'\].*move the table away"):
        lake.read("documents")
    with pytest.raises(LakeError, match="tenant"):
        lake.merge("documents", documents(document("a")), key="doc_id", run_id="2")


def test_the_small_files_of_many_appends_are_gathered_and_no_row_is_lost_or_doubled(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    for number in range(40):
        row = {"acl_id": number, "tenant": "default", "principals": ["group:a"], "created_at": datetime.now(UTC)}
        lake.append("acl_sets", pa.Table.from_pylist([row], schema=TABLES["acl_sets"]), run_id="run")
    assert sorted(lake.read("acl_sets")["acl_id"].to_pylist()) == list(range(40))
    assert len(DeltaTable(lake.uri("acl_sets")).file_uris()) < 20
