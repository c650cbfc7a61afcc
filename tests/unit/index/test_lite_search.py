"""Our exact reading of a Lite collection against Lite's own, on collections with replaced and deleted rows."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("milvus_lite")

from milvus_lite.engine.collection import Collection
from milvus_lite.schema.types import CollectionSchema, DataType, FieldSchema

from pipelines.index import lite_generation
from pipelines.index.lite_search import ExactCollection

DIMENSION = 16


def record(random: np.random.Generator, number: int, version: int) -> dict[str, Any]:
    vector = random.normal(size=DIMENSION)
    terms = random.choice(60, size=random.integers(1, 12), replace=False)
    return {
        "key": f"key-{number:04d}",
        "acl_id": int(random.integers(0, 10)),
        "name": f'{number} "v{version}"',
        "dense": (vector / np.linalg.norm(vector)).astype(np.float32).tolist(),
        "sparse": {int(term): float(random.uniform(0.1, 3)) for term in terms},
    }


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[ExactCollection]:
    """Four flushes with replaced and deleted rows; Lite compacts in between."""
    schema = CollectionSchema(
        fields=[
            FieldSchema(name="key", dtype=DataType.VARCHAR, is_primary=True, max_length=64),
            FieldSchema(name="acl_id", dtype=DataType.INT64),
            FieldSchema(name="name", dtype=DataType.VARCHAR, max_length=64),
            FieldSchema(name="dense", dtype=DataType.FLOAT_VECTOR, dim=DIMENSION),
            FieldSchema(name="sparse", dtype=DataType.SPARSE_FLOAT_VECTOR),
        ]
    )
    made = ExactCollection("exact", str(tmp_path / "exact"), schema)
    random = np.random.default_rng(5)
    for version in range(6):
        numbers = random.choice(400, size=150, replace=False)
        made.upsert([record(random, int(number), version) for number in numbers])
        made.delete([f"key-{number:04d}" for number in random.choice(400, size=30, replace=False)])
        made.flush()
    yield made
    made.close()


def test_what_is_alive_after_a_small_flush_is_what_all_files_say(collection: ExactCollection) -> None:
    random = np.random.default_rng(11)
    carried = 0
    for version in range(40):
        numbers = random.choice(500, size=int(random.integers(0, 12)), replace=False)
        if len(numbers):
            collection.upsert([record(random, int(number), version) for number in numbers])
        if version % 3:
            collection.delete([f"key-{number:04d}" for number in random.choice(500, size=5, replace=False)])
        before = collection._cached
        collection.flush()
        found = collection._settled()
        assert found is not None
        if before is not None:
            carried += lite_generation.changed_keys(found.segments, found.tombstones, before) is not None
        whole = lite_generation.from_nothing(found.segments, found.tombstones, None)
        assert [part.live.tolist() for part in found.parts] == [part.live.tolist() for part in whole.parts]
        assert collection.num_entities == Collection.num_entities.fget(collection)
    assert carried > 20


@pytest.mark.parametrize("expression", [None, "acl_id in [1, 2]", "acl_id in [3]", "acl_id in [99]"])
@pytest.mark.parametrize("field", ["dense", "sparse"])
def test_rankings_agree_with_lites_own(collection: ExactCollection, field: str, expression: str | None) -> None:
    random = np.random.default_rng(6)
    queries = [record(random, 0, 0)[field] for _ in range(15)]
    ours = collection.rank(queries, field, "IP", expression, 20)
    theirs = Collection.search(collection, queries, 20, "IP", expr=expression, output_fields=["key"], anns_field=field)
    assert ours is not None
    for (keys, scores), hits in zip(ours, theirs, strict=True):
        assert keys == [hit["id"] for hit in hits]
        assert scores == pytest.approx([hit["distance"] for hit in hits], abs=1e-5)


@pytest.mark.parametrize("expression", [None, 'name like "1%"', "acl_id in [3]", 'key in ["key-0001", "key-0002"]'])
def test_queries_agree_with_lites_own(collection: ExactCollection, expression: str | None) -> None:
    fields = ["acl_id", "name"]
    for limit, offset in ((None, 0), (7, 0), (7, 5)):
        ours = collection.query(expression, fields, limit=limit, offset=offset, order_by_pk=True)
        theirs = Collection.query(collection, expression, fields, limit=limit, offset=offset, order_by_pk=True)
        assert ours == theirs


def test_rows_by_key_agree_with_lites_own(collection: ExactCollection) -> None:
    keys = [f"key-{number:04d}" for number in range(400)]
    ours = collection.get(keys, output_fields=["name"])
    assert ours == Collection.get(collection, keys, output_fields=["name"])
    assert 0 < len(ours) < 400


def test_rows_that_wait_to_be_flushed_are_left_to_lite(collection: ExactCollection) -> None:
    random = np.random.default_rng(8)
    fresh = record(random, 999, 9)
    collection.upsert([fresh])
    assert collection.rank([fresh["dense"]], "dense", "IP", None, 1) is None
    assert collection.get(["key-0999"], output_fields=["name"])[0]["name"] == fresh["name"]
    collection.flush()
    assert collection.rank([fresh["dense"]], "dense", "IP", None, 1)[0][0] == ["key-0999"]  # type: ignore[index]


def test_a_filter_is_evaluated_anew_after_a_change(collection: ExactCollection) -> None:
    random = np.random.default_rng(9)
    one = {**record(random, 998, 9), "acl_id": 50}
    collection.upsert([one])
    collection.flush()
    assert collection.rank([one["dense"]], "dense", "IP", "acl_id in [50]", 5)[0][0] == ["key-0998"]  # type: ignore[index]
    collection.upsert([{**one, "acl_id": 51}])
    collection.flush()
    assert collection.rank([one["dense"]], "dense", "IP", "acl_id in [50]", 5)[0][0] == []  # type: ignore[index]
    assert collection.rank([one["dense"]], "dense", "IP", "acl_id in [51]", 5)[0][0] == ["key-0998"]  # type: ignore[index]


def test_a_full_disk_refuses_writes_and_goes_on_answering(
    collection: ExactCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    random = np.random.default_rng(10)
    before = collection.num_entities
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1_000))
    with pytest.raises(OSError, match="free some space") as refused:
        collection.upsert([record(random, 997, 9)])
    assert refused.value.errno == errno.ENOSPC
    assert collection.num_entities == before
    assert collection.rank([record(random, 0, 0)["dense"]], "dense", "IP", None, 1) is not None
