"""Deriving: only what is missing is made, in portions, and rejected rows are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.lake.derive import derive, missing
from pipelines.lake.schemas import EMBEDDINGS
from pipelines.lake.tables import Lake

KEYS = ["text_hash", "model_fp"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def wanted(*texts: str) -> pa.Table:
    return pa.table({"text_hash": list(texts), "model_fp": ["m"] * len(texts)})


def stage(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        texts = batch["text_hash"].to_pylist()
        columns = {
            "text_hash": texts,
            "model_fp": ["m"] * len(texts),
            "vector": [[1.0, 0.0]] * len(texts),
            "error": ["not finite" if text.startswith("bad") else None for text in texts],
        }
        schema = EMBEDDINGS.append(pa.field("error", pa.string()))
        yield pa.RecordBatch.from_pydict(columns, schema=schema)


def run(lake: Lake, table: pa.Table, *, portion_rows: int = 100) -> object:
    batches = table.to_batches(max_chunksize=2)
    return derive(lake, "embeddings", batches, stage, total=len(table), portion_rows=portion_rows, run_id="r")


def test_missing_names_each_key_once_in_its_order(lake: Lake) -> None:
    run(lake, wanted("b"))
    assert missing(lake, "embeddings", wanted("c", "b", "a", "c"), KEYS)["text_hash"].to_pylist() == ["c", "a"]


def test_a_second_derivation_finds_nothing_missing(lake: Lake) -> None:
    run(lake, wanted("a", "b"))
    version = lake.version("embeddings")
    again = missing(lake, "embeddings", wanted("a", "b"), KEYS)
    assert again.num_rows == 0
    run(lake, again)
    assert lake.version("embeddings") == version


def test_rejected_rows_are_reported_and_not_appended(lake: Lake) -> None:
    result = run(lake, wanted("a", "bad", "b"))
    assert result.rows == 2
    assert result.rejected["text_hash"].to_pylist() == ["bad"]
    assert result.rejected["error"].to_pylist() == ["not finite"]
    assert sorted(lake.read("embeddings")["text_hash"].to_pylist()) == ["a", "b"]


def test_what_was_committed_before_a_kill_is_not_made_again(lake: Lake) -> None:
    def killed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(stage(batches)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    table = wanted("a", "b", "c", "d", "e", "f")
    with pytest.raises(KeyboardInterrupt):
        derive(lake, "embeddings", table.to_batches(max_chunksize=2), killed, total=6, portion_rows=2, run_id="r")
    assert sorted(lake.read("embeddings")["text_hash"].to_pylist()) == ["a", "b", "c", "d"]
    assert missing(lake, "embeddings", table, KEYS)["text_hash"].to_pylist() == ["e", "f"]


def test_progress_counts_inputs_up_to_the_total(lake: Lake) -> None:
    seen: list[tuple[int, int]] = []
    table = wanted("a", "b", "c")
    derive(
        lake,
        "embeddings",
        table.to_batches(max_chunksize=2),
        stage,
        total=3,
        portion_rows=10,
        run_id="r",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 3), (3, 3)]
