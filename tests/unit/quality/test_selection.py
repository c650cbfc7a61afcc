"""Which rows belong to a run: exactly those that its commits added or changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.errors import LakeError
from pipelines.lake import snapshots
from pipelines.lake.tables import Lake
from pipelines.quality.check import check_table
from pipelines.quality.selection import commits_of_run, rows_of_commits
from tests.fakes.quality_rows import acl_set, as_table, document, embedding
from tests.fakes.snapshots import snapshot


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def add(lake: Lake, run_id: str, *names: str) -> None:
    lake.append("embeddings", as_table("embeddings", [embedding(name) for name in names]), run_id=run_id)


def merge(lake: Lake, run_id: str, *rows: dict[str, object]) -> None:
    lake.merge("documents", as_table("documents", list(rows)), key="doc_id", run_id=run_id)


def values(batches: Iterable[pa.RecordBatch], column: str) -> list[object]:
    return sorted(value for batch in batches for value in batch.column(column).to_pylist())


def test_the_commits_of_a_run_are_found_by_its_id(lake: Lake) -> None:
    for run_id in ("one", "two", "two", "one", "two"):
        add(lake, run_id, "x")
    assert commits_of_run(lake, "embeddings", run_id="two", since_version=None) == [2, 3, 5]
    assert commits_of_run(lake, "embeddings", run_id="two", since_version=3) == [5]
    assert commits_of_run(lake, "embeddings", run_id="two", since_version=5) == []
    assert commits_of_run(lake, "embeddings", run_id="three", since_version=None) == []


def test_a_table_that_was_never_written_has_no_commits(lake: Lake) -> None:
    assert commits_of_run(lake, "chunks", run_id="r", since_version=-1) == []
    assert commits_of_run(lake, "chunks", run_id="r", since_version=None) == []


@pytest.mark.parametrize("table", ["embeddings", "acl_sets"])
def test_where_the_log_was_shortened_all_rows_are_checked(lake: Lake, tmp_path: Path, table: str) -> None:
    for number in range(1, 6):
        row = embedding(f"x{number}") if table == "embeddings" else acl_set(number, f"user:{number}")
        lake.append(table, as_table(table, [row]), run_id="long")
    since = lake.version(table) - 4
    assert commits_of_run(lake, table, run_id="long", since_version=since) == [2, 3, 4, 5]
    DeltaTable(lake.uri(table)).create_checkpoint()
    for version in range(since + 1):
        (Path(lake.uri(table)) / "_delta_log" / f"{version:020}.json").unlink()
    fresh = Lake(tmp_path / "lake")
    assert commits_of_run(fresh, table, run_id="long", since_version=since) is None
    assert commits_of_run(fresh, table, run_id="long", since_version=None) is None
    assert commits_of_run(fresh, table, run_id="long", since_version=since + 1) == [3, 4, 5]
    found = check_table(fresh, table, scope="changed", run_id="long", since_version=since, engine="arrow")
    assert max(outcome.checked_rows for outcome in found) == 5


def test_of_an_appended_table_exactly_the_rows_of_the_runs_own_commits_are_read(lake: Lake) -> None:
    for run_id, names in (("one", "ab"), ("two", "cd"), ("two", "e"), ("three", "f"), ("two", "g"), ("three", "h")):
        add(lake, run_id, *names)
    commits = commits_of_run(lake, "embeddings", run_id="two", since_version=None)
    expected = sorted(embedding(name)["text_hash"] for name in "cdeg")
    assert values(rows_of_commits(lake, "embeddings", commits, ["text_hash"]), "text_hash") == expected


def test_files_that_a_run_did_not_add_are_not_opened(lake: Lake, tmp_path: Path) -> None:
    add(lake, "one", "a")
    for file in (tmp_path / "lake" / "embeddings").glob("*.parquet"):
        file.unlink()
    add(lake, "two", "b")
    commits = commits_of_run(lake, "embeddings", run_id="two", since_version=0)
    assert len(values(rows_of_commits(lake, "embeddings", commits, ["text_hash"]), "text_hash")) == 1


def test_a_file_of_the_run_that_is_gone_is_an_error_that_says_what_to_do(lake: Lake, tmp_path: Path) -> None:
    add(lake, "one", "a")
    for file in (tmp_path / "lake" / "embeddings").glob("*.parquet"):
        file.unlink()
    with pytest.raises(LakeError, match="lockstep update --full"):
        list(rows_of_commits(lake, "embeddings", [1], ["text_hash"]))


def test_of_the_manifest_changed_rows_are_read_as_the_run_left_them(lake: Lake) -> None:
    merge(lake, "one", document("a"), document("b"), document("c"))
    merge(lake, "two", document("b", version=2), document("d"))
    merge(lake, "two", document("b", version=3))
    merge(lake, "three", document("d", version=9))
    commits = commits_of_run(lake, "documents", run_id="two", since_version=0)
    found = pa.Table.from_batches(list(rows_of_commits(lake, "documents", commits, ["uri", "version"])))
    assert sorted(found.to_pylist(), key=lambda row: row["uri"]) == [
        {"uri": "b", "version": 3},
        {"uri": "d", "version": 1},
    ]


def test_the_first_commit_of_the_manifest_is_read_too(lake: Lake) -> None:
    merge(lake, "one", document("a"), document("b"))
    assert values(rows_of_commits(lake, "documents", [1], ["uri"]), "uri") == ["a", "b"]


def test_of_the_snapshots_only_those_that_the_run_recorded_anew_are_read(lake: Lake) -> None:
    first = snapshot("s1", run_id="one")
    second = replace(first, snapshot_id="s2", sequence=2, status="candidate", run_id="two")
    snapshots.record(lake, first, replace(first, snapshot_id="s0", sequence=0, status="retired"))
    snapshots.record(lake, second)
    snapshots.record(lake, replace(second, status="live"), replace(first, status="retired"))
    commits = commits_of_run(lake, "index_snapshots", run_id="two", since_version=1)
    assert commits == [2, 3]
    rows = list(rows_of_commits(lake, "index_snapshots", commits, ["snapshot_id", "status"]))
    found = {row["snapshot_id"]: row["status"] for batch in rows for row in batch.to_pylist()}
    assert found == {"s1": "retired", "s2": "live"}
