from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.index.lite_repair import expected_rows, look_over


def make_collection(data: Path, *, active_log: int, logs: tuple[int, ...]) -> Path:
    folder = data / "collections" / "a"
    (folder / "wal").mkdir(parents=True)
    (folder / "schema.json").write_text("{}")
    files = {"_default": {"data_files": ["data/one.parquet"], "delta_files": []}}
    (folder / "manifest.json").write_text(json.dumps({"active_wal_number": active_log, "partitions": files}))
    (folder / "partitions" / "_default" / "data").mkdir(parents=True)
    (folder / "partitions" / "_default" / "data" / "one.parquet").write_bytes(b"")
    for number in logs:
        (folder / "wal" / f"wal_data_{number:06d}.arrow").write_bytes(b"")
        (folder / "wal" / f"wal_delta_{number:06d}.arrow").write_bytes(b"")
    return folder


def test_logs_that_a_flush_has_committed_are_removed_and_newer_ones_kept(tmp_path: Path) -> None:
    folder = make_collection(tmp_path, active_log=4, logs=(2, 3, 4))
    assert look_over(tmp_path, tmp_path / "aside") == []
    assert sorted(log.name for log in (folder / "wal").iterdir()) == ["wal_data_000004.arrow", "wal_delta_000004.arrow"]


def test_a_collection_that_was_never_flushed_is_left_alone(tmp_path: Path) -> None:
    folder = make_collection(tmp_path, active_log=1, logs=(1,))
    (folder / "manifest.json").unlink()
    (folder / "partitions" / "_default" / "data" / "one.parquet").unlink()
    assert look_over(tmp_path, tmp_path / "aside") == []
    assert len(list((folder / "wal").iterdir())) == 2


def test_a_missing_file_is_named_and_the_collection_kept_aside(tmp_path: Path) -> None:
    folder = make_collection(tmp_path, active_log=1, logs=())
    (folder / "partitions" / "_default" / "data" / "one.parquet").unlink()
    (problem,) = look_over(tmp_path, tmp_path / "aside")
    assert problem.collection == "a"
    assert "one.parquet" in problem.reason
    assert not folder.exists()
    assert (tmp_path / "aside" / "a" / "schema.json").exists()


def test_an_empty_folder_has_nothing_to_look_over(tmp_path: Path) -> None:
    assert look_over(tmp_path, tmp_path / "aside") == []


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ('{"building": false, "rows": 7}', 7),
        ('{"building": true, "rows": 7}', None),
        ("", None),
        ("{", None),
        ('{"rows": "7"}', None),
    ],
)
def test_only_a_complete_slot_says_how_many_rows_it_holds(value: str, rows: int | None) -> None:
    assert expected_rows({"state": value}, "state") == rows
    assert expected_rows({}, "state") is None
