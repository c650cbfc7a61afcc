"""How tables lie on the disk: what a merge rewrites, what a look-up reads, and that neither changes the rows."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.errors import LakeError
from pipelines.lake import layout, manifest, pruning, snapshots, tables
from pipelines.lake.portions import KeySet, Portion, portions
from pipelines.lake.schemas import CHUNKS, DOCUMENTS, EMBEDDINGS, TABLES
from pipelines.lake.tables import Lake
from tests.fakes.snapshots import snapshot
from tests.rows import documents_named


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 8 rows, so that few documents make many parts, and nothing is held in memory."""
    monkeypatch.setattr(layout, "_FILE_ROWS", 8)
    monkeypatch.setattr("pipelines.lake.open_tables._HELD_BYTES", 0)


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def vectors(*numbers: int, model: str = "m") -> pa.Table:
    rows = [{"text_hash": key(n), "model_fp": model, "vector": [float(n)]} for n in numbers]
    return pa.Table.from_pylist(rows, schema=EMBEDDINGS)


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that are opened from now on."""
    import pyarrow.dataset as ds

    opened: list[str] = []
    original = ds.ParquetFileFormat.make_fragment

    def watched(self: Any, file: str, **options: Any) -> Any:
        opened.append(file)
        return original(self, file, **options)

    class Watched(ds.ParquetFileFormat):  # type: ignore[misc]
        make_fragment = watched

    monkeypatch.setattr("pipelines.lake.pruning.ds.ParquetFileFormat", Watched)
    return opened


def test_portions_cover_every_key_once() -> None:
    found = portions(100_000, rows_each=30_000)
    assert len(found) == 4
    keys = pa.array([key(n) for n in range(200)])
    counts = [pc.sum(portion.among(keys)).as_py() for portion in found]
    assert sum(counts) == 200
    assert min(counts) > 30
    assert portions(10) == (Portion(),)


@pytest.mark.parametrize(
    ("smallest", "largest", "expected"),
    [
        ("a", "b", False),
        ("aa", "d", True),
        ("cc", "cd", True),
        ("c5", "c7", False),
        (None, None, True),
        ("c", "c", True),
    ],
    ids=["before", "around", "at its end", "between two", "unknown", "cut off"],
)
def test_single_keys_lie_between_bounds_or_not(smallest: str | None, largest: str | None, expected: bool) -> None:
    assert KeySet(["c1", "cc"]).touches(smallest, largest) is expected


def test_a_merge_rewrites_only_the_parts_that_it_touches(lake: Lake, small_files: None) -> None:
    lake.merge("documents", documents_named(f"doc-{n}" for n in range(200)), key="doc_id", run_id="1")
    before = set(paths(lake, "documents"))
    assert len(before) > 100
    changed = documents_named(["doc-3", "new"], version=2)
    lake.merge("documents", changed, key="doc_id", run_id="2")
    after = set(paths(lake, "documents"))
    assert len(before - after) == 1
    rows = lake.read("documents")
    assert len(rows) == 201
    versions = dict(zip(rows["uri"].to_pylist(), rows["version"].to_pylist(), strict=True))
    assert versions["doc-3"] == versions["new"] == 2
    assert versions["doc-4"] == 1


def test_a_table_that_grows_is_divided_anew_and_its_feed_tells_nothing_of_it(lake: Lake, small_files: None) -> None:
    for start in range(0, 60, 6):
        rows = documents_named(f"doc-{n}" for n in range(start, start + 6))
        lake.merge("documents", rows, key="doc_id", run_id=str(start))
    assert {len(path.split("/")[0]) for path in paths(lake, "documents")} == {len("part=") + 1}
    feed = lake.changes("documents", -1, lake.version("documents"))
    assert feed is not None
    assert sorted(feed["uri"].to_pylist()) == sorted(f"doc-{n}" for n in range(60))
    assert set(feed["_change_type"].to_pylist()) == {"insert"}


def test_the_files_of_a_part_become_one_when_there_are_many(lake: Lake) -> None:
    for edition in range(1, 30):
        lake.merge("documents", documents_named([f"doc-{edition % 7}"], version=edition), key="doc_id", run_id="r")
    assert len(lake.read("documents")) == 7
    assert len(paths(lake, "documents")) <= tables._PARTS_FILES + 1


def test_a_look_up_opens_only_files_that_can_hold_a_key(
    lake: Lake, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"doc-{n}" for n in range(200)]
    lake.merge("documents", documents_named(names), key="doc_id", run_id="1")
    every = lake.read("documents")
    wanted = every["doc_id"].to_pylist()[10:12]
    opened = read_files(monkeypatch)
    found = lake.lookup("documents", wanted)
    assert sorted(found["doc_id"].to_pylist()) == sorted(wanted)
    assert len(opened) <= 2
    assert found.schema == DOCUMENTS


def test_active_documents_of_portions_are_all_of_them(lake: Lake, small_files: None) -> None:
    lake.merge("documents", documents_named(f"doc-{n}" for n in range(50)), key="doc_id", run_id="1")
    gone = documents_named(["doc-7"], status=manifest.DELETED)
    lake.merge("documents", gone, key="doc_id", run_id="2")
    parts = [manifest.active_documents(lake, portion=part) for part in portions(50, rows_each=9)]
    assert sum(map(len, parts)) == manifest.active_count(lake) == 49
    assert manifest.active_count(lake, 1) == 50
    one = manifest.active_documents(lake, doc_ids=[parts[0]["doc_id"][0].as_py(), gone["doc_id"][0].as_py()])
    assert one["doc_id"].to_pylist() == [parts[0]["doc_id"][0].as_py()]


def test_a_look_up_finds_what_a_read_finds_whatever_the_order_on_the_disk(
    lake: Lake, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_UNORDERED_ROWS", 30)
    for start in range(0, 100, 5):
        lake.append("embeddings", vectors(*range(start, start + 5)), run_id="r")
    wanted = pa.array([key(n) for n in (3, 50, 99, 1_000)])
    before = lake.lookup("embeddings", wanted).sort_by("text_hash")
    assert sorted(before["vector"].to_pylist()) == [[3.0], [50.0], [99.0]]
    assert lake.order("embeddings", run_id="r")
    assert not lake.order("embeddings", run_id="r")
    assert lake.lookup("embeddings", wanted).sort_by("text_hash").equals(before)
    keys = lake.read("embeddings", ["text_hash"])["text_hash"].to_pylist()
    assert keys == sorted(keys)
    assert len(keys) == 100


def test_what_updates_added_in_no_order_is_read_only_where_it_has_the_key(
    lake: Lake, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in range(0, 90, 30):
        lake.append("embeddings", vectors(*range(start, start + 30)), run_id="r")
    scanned: list[list[str]] = []
    original = pruning.rows

    def watched(source: Any, *arguments: Any, **options: Any) -> Any:
        scanned.append([fragment.path for fragment in source.get_fragments()])
        return original(source, *arguments, **options)

    monkeypatch.setattr(pruning, "rows", watched)
    spanning = sorted(key(n) for n in range(90))[20:70]
    wanted = next(one for one in spanning if one in set(vectors(*range(30, 60))["text_hash"].to_pylist()))
    assert lake.lookup("embeddings", [wanted]).num_rows == 1
    between = f"{int(wanted[:8], 16) + 1:08x}"
    assert lake.lookup("embeddings", [between]).num_rows == 0
    assert [len(files) for files in scanned] == [1, 0]


def test_a_look_up_takes_further_conditions_on_columns_that_are_not_asked_for(lake: Lake) -> None:
    lake.append("embeddings", vectors(1, 2), run_id="r")
    lake.append("embeddings", vectors(1, model="n"), run_id="r")
    found = lake.lookup("embeddings", [key(1)], ["text_hash"], where=pc.field("model_fp") == "n")
    assert found.num_rows == 1
    assert lake.lookup("embeddings", [], ["text_hash"]).num_rows == 0
    assert lake.lookup("chunks", [key(1)]).schema == CHUNKS


def test_rows_above_a_value_are_read_from_the_files_that_can_have_one(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.lake.open_tables._HELD_BYTES", 0)
    now = datetime.now(UTC)
    for number in range(1, 9):
        row = {"acl_id": number, "tenant": "default", "principals": [f"user:{number}"], "created_at": now}
        lake.append("acl_sets", pa.Table.from_pylist([row], schema=TABLES["acl_sets"]), run_id="r")
    opened = read_files(monkeypatch)
    assert sorted(lake.after("acl_sets", ["acl_id"], by="acl_id", value=6)["acl_id"].to_pylist()) == [7, 8]
    assert len(opened) == 2
    newest = lake.newest("acl_sets", ["acl_id"], by="acl_id", rows=3)
    assert sorted(newest["acl_id"].to_pylist())[-3:] == [6, 7, 8]
    assert len(opened) == 5


def test_tables_behind_an_address_are_looked_up_in_the_same_way(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}/lake")
    lake.merge("documents", documents_named(f"doc-{n}" for n in range(20)), key="doc_id", run_id="1")
    wanted = lake.read("documents")["doc_id"].to_pylist()[:3]
    assert sorted(lake.lookup("documents", wanted)["doc_id"].to_pylist()) == sorted(wanted)
    assert len(lake.lookup("documents", Portion())) == 20


def test_a_manifest_of_an_earlier_layout_is_refused_with_what_to_do(lake: Lake, tmp_path: Path) -> None:
    from deltalake import write_deltalake

    write_deltalake(str(tmp_path / "lake" / "documents"), documents_named(["a"]))
    with pytest.raises(LakeError, match="new LOCKSTEP_HOME"):
        lake.merge("documents", documents_named(["b"]), key="doc_id", run_id="1")


def test_what_a_snapshot_writes_does_not_grow_with_the_snapshots_there_were(lake: Lake) -> None:
    written = []
    for number in range(1, 121):
        before = dict(sizes(lake))
        older = [snapshot(f"s{number - 1:03d}", sequence=number - 1, status="retired")] if number > 1 else []
        snapshots.record(lake, snapshot(f"s{number:03d}", sequence=number), *older)
        written.append(sum(size for path, size in sizes(lake) if path not in before))
    rows = lake.read("index_snapshots").sort_by("sequence")
    assert rows["snapshot_id"].to_pylist() == [f"s{number:03d}" for number in range(1, 121)]
    assert rows["status"].to_pylist() == ["retired"] * 119 + ["live"]
    assert max(written[60:]) <= 1.1 * max(written[:60])
    commit = Path(lake.uri("index_snapshots")) / "_delta_log" / f"{lake.version('index_snapshots'):020}.json"
    assert commit.stat().st_size < 4_000


def test_a_record_of_snapshots_of_an_earlier_layout_is_written_anew(lake: Lake, tmp_path: Path) -> None:
    from deltalake import write_deltalake

    snapshots.record(Lake(tmp_path / "other"), *(snapshot(f"s{n}", sequence=n, status="retired") for n in range(1, 80)))
    rows = Lake(tmp_path / "other").read("index_snapshots")
    write_deltalake(lake.uri("index_snapshots"), rows)
    snapshots.record(lake, snapshot("s79", sequence=79), snapshot("s80", sequence=80))
    found = lake.read("index_snapshots").sort_by("sequence")
    assert found["snapshot_id"].to_pylist() == [f"s{n}" for n in range(1, 81)]
    assert found["status"].to_pylist() == ["retired"] * 78 + ["live"] * 2
    assert {path.split("/")[0] for path in paths(lake, "index_snapshots")} == {"part=0-31", "part=32-63", "part=64-95"}


def test_snapshots_in_parts_of_another_size_are_written_anew(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(layout, "_NUMBERS", 10)
        snapshots.record(lake, *(snapshot(f"s{n}", sequence=n, status="retired") for n in range(1, 40)))
    snapshots.record(lake, snapshot("s39", sequence=39))
    assert sorted(lake.read("index_snapshots")["sequence"].to_pylist()) == list(range(1, 40))
    assert len(paths(lake, "index_snapshots")) == 2


def sizes(lake: Lake) -> list[tuple[str, int]]:
    if lake.version("index_snapshots") < 0:
        return []
    facts = lake._tables.facts(lake.uri("index_snapshots"))
    return list(zip(facts["path"].to_pylist(), facts["size_bytes"].to_pylist(), strict=True))


def paths(lake: Lake, name: str) -> list[str]:
    return [fragment.path for fragment in lake.files(name, lake.version(name)).get_fragments()]
