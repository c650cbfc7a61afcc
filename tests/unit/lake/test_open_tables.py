"""Tables that are kept open never show an older state than the disk holds."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipelines.lake import open_tables
from pipelines.lake.open_tables import OpenTables

SCHEMA = pa.schema([("number", pa.int64())])


def _write(folder: Path, *numbers: int) -> None:
    write_deltalake(str(folder), pa.table({"number": list(numbers)}, SCHEMA), mode="append")


def _numbers(tables: OpenTables, folder: Path, version: int | None = None) -> list[int]:
    found = tables.rows(str(folder), SCHEMA, version)
    return sorted((found if isinstance(found, pa.Table) else found.to_table())["number"].to_pylist())


def test_a_table_is_opened_once_while_nobody_commits(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    tables = OpenTables()
    assert tables.table(str(tmp_path)) is tables.table(str(tmp_path))
    assert tables.rows(str(tmp_path), SCHEMA) is tables.rows(str(tmp_path), SCHEMA)


def test_rows_of_a_small_table_are_read_once_a_version(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    tables = OpenTables()
    assert _numbers(tables, tmp_path) == [1]
    for file in tmp_path.glob("*.parquet"):
        file.rename(file.with_suffix(".away"))
    assert _numbers(tables, tmp_path) == [1]
    _write(tmp_path, 2)
    assert _numbers(tables, tmp_path) == [1, 2]  # what a commit left as it was is not read again
    write_deltalake(str(tmp_path), pa.table({"number": [3]}, SCHEMA), mode="overwrite")
    assert _numbers(tables, tmp_path) == [3]


def test_rows_of_a_large_table_are_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_tables, "_HELD_BYTES", 0)
    _write(tmp_path, 1)
    tables = OpenTables()
    assert _numbers(tables, tmp_path) == [1]
    for file in tmp_path.glob("*.parquet"):
        file.unlink()
    with pytest.raises(FileNotFoundError):
        _numbers(tables, tmp_path)


def test_commits_are_seen_across_checkpoints(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    tables, other = OpenTables(), OpenTables()
    for number in range(2, 12):
        if number % 3 == 0:
            DeltaTable(str(tmp_path)).create_checkpoint()
        if number % 4 == 0:
            assert _numbers(other, tmp_path) == list(range(1, number))
        _write(tmp_path, number)
        assert _numbers(tables, tmp_path) == list(range(1, number + 1))


@pytest.mark.parametrize("waited", [0.0, 0.05])
def test_what_another_process_committed_is_seen_at_once(tmp_path: Path, waited: float) -> None:
    _write(tmp_path, 1)
    tables = OpenTables()
    for number in range(2, 6):
        time.sleep(waited)
        assert _numbers(tables, tmp_path) == list(range(1, number))
        _write(tmp_path, number)
    assert tables.table(str(tmp_path)).version() == 4


def test_an_earlier_version_leaves_the_newest_as_it_is(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    _write(tmp_path, 2)
    tables = OpenTables()
    assert _numbers(tables, tmp_path, 0) == [1]
    assert _numbers(tables, tmp_path) == [1, 2]


def test_another_table_in_the_same_place_is_another_table(tmp_path: Path) -> None:
    folder, other = tmp_path / "table", tmp_path / "other"
    for number in (1, 2, 3):
        _write(folder, number)
    for number in (7, 8, 9, 10):
        _write(other, number)
    tables = OpenTables()
    assert _numbers(tables, folder) == [1, 2, 3]
    shutil.rmtree(folder)
    other.rename(folder)
    assert _numbers(tables, folder) == [7, 8, 9, 10]


def test_a_log_that_was_put_back_is_read_anew(tmp_path: Path) -> None:
    for number in (1, 2):
        _write(tmp_path, number)
    tables = OpenTables()
    assert _numbers(tables, tmp_path) == [1, 2]
    (tmp_path / "_delta_log" / f"{1:020}.json").unlink()
    assert _numbers(tables, tmp_path) == [1]


@pytest.mark.parametrize("waited", [0.0, 0.05])
def test_damage_and_loss_are_noticed_in_an_open_table(tmp_path: Path, waited: float) -> None:
    _write(tmp_path, 1)
    tables = OpenTables()
    time.sleep(waited)  # the log is looked at in less detail once its folder did not change for a while
    assert isinstance(tables.table(str(tmp_path)), DeltaTable)
    (tmp_path / "_delta_log" / f"{0:020}.json").write_text("{not json")
    with pytest.raises(DeltaError):
        tables.table(str(tmp_path))
    shutil.rmtree(tmp_path)
    with pytest.raises(TableNotFoundError):
        tables.table(str(tmp_path))


def test_what_is_derived_of_a_version_is_made_once_and_anew_after_a_commit(tmp_path: Path) -> None:
    _write(tmp_path, 1)
    tables, made = OpenTables(), []

    def total() -> int:
        made.append(sum(_numbers(tables, tmp_path)))
        return made[-1]

    assert [tables.derived(str(tmp_path), "total", total) for _ in range(3)] == [1, 1, 1]
    _write(tmp_path, 2)
    assert [tables.derived(str(tmp_path), "total", total) for _ in range(3)] == [3, 3, 3]
    assert made == [1, 3]
