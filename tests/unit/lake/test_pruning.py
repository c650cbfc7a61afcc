import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from pipelines.lake import pruning
from pipelines.lake.portions import KeySet

ROWS, GROUP, WIDTH = 20_000, 500, 256
SCHEMA = pa.schema([("key", pa.string()), ("vector", pa.list_(pa.float32()))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of 20 MB in 40 row groups."""
    found = Path(tmp_path_factory.mktemp("table"))
    vectors = np.random.default_rng(0).standard_normal(ROWS * WIDTH).astype(np.float32)
    offsets = np.arange(0, ROWS * WIDTH + 1, WIDTH, dtype=np.int32)
    keys = [f"{number:08x}" for number in range(ROWS)]
    rows = pa.table([keys, pa.ListArray.from_arrays(offsets, vectors)], schema=SCHEMA)
    parquet.write_table(rows, found / "rows.parquet", row_group_size=GROUP)
    return found


def dataset(folder: Path, **wanted):
    facts = pa.table({"path": ["rows.parquet"]})
    return pruning.dataset(facts, SubTreeFileSystem(str(folder), LocalFileSystem()), SCHEMA, **wanted)


def test_what_is_not_asked_for_yet_is_not_read_ahead(folder: Path) -> None:
    before = pa.total_allocated_bytes()
    batches = pruning.rows(dataset(folder), ["key", "vector"], batch_rows=GROUP)
    first = next(batches)
    time.sleep(0.5)  # in which readers of their own accord would have read everything
    assert pa.total_allocated_bytes() - before < 5_000_000
    assert first["key"].to_pylist() == [f"{number:08x}" for number in range(GROUP)]
    assert sum(map(len, batches)) == ROWS - GROUP


@pytest.mark.parametrize("held", [False, True])
def test_rows_come_in_their_order_whatever_is_asked_for(folder: Path, held: bool) -> None:
    keys = [f"{number:08x}" for number in range(3, ROWS, 7)]
    source = dataset(folder, key="key", wanted=KeySet(keys))
    source = source.to_table() if held else source
    wanted = {"key": "key", "wanted": KeySet(keys)}
    assert [key for batch in pruning.rows(source, ["key"], **wanted) for key in batch["key"].to_pylist()] == keys
    few = pruning.rows(source, ["vector"], where=pc.field("key") < keys[5], **wanted)
    assert [batch.num_rows for batch in few] == [5]
    assert list(pruning.rows(source, ["key"], where=pc.field("key") == "none", **wanted)) == []
