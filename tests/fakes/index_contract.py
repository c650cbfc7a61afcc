"""What every index must do. A test module inherits `IndexContract` and gives it a fixture `index`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.errors import IndexMismatch
from pipelines.index.protocol import REVISION, UNFILTERED, Index
from pipelines.index.rows import HIT_FIELDS, INDEX_ROW, SCALAR_ROW, row_hashes
from pipelines.lake.portions import Portion
from tests.fakes.rows import DIMENSION, MODEL, index_row, index_rows, readable_by, unit_vector

SLOT = "contract__a"
OTHER = "contract__b"
ODD = 'it\'s "odd" \\ / %20 \t\nline ü 文 \U0001f600'


def vectors(*seeds: int) -> np.ndarray:
    return np.array([unit_vector(seed) for seed in seeds], dtype=np.float32)


def bits(rows: pa.Table) -> list[bytes]:
    """The floats of rows, as they are in memory."""
    columns = (pc.list_flatten(rows[name]).to_numpy().astype(np.float32) for name in ("dense", "weights"))
    return [column.tobytes() for column in columns]


class IndexContract:
    @pytest.fixture
    def slot(self, index: Index) -> str:
        index.create(SLOT, DIMENSION)
        return SLOT

    def settle(self, index: Index) -> None:
        index.wait_until_indexed(SLOT, 60)

    # --- collections and aliases ---

    def test_a_new_collection_is_there_and_empty(self, index: Index, slot: str) -> None:
        assert index.exists(slot)
        assert index.collections() == [slot]
        assert index.count(slot) == 0
        assert index.row_hashes(slot) == {}
        assert index.read_state(slot) is None

    def test_a_collection_is_not_created_over_another(self, index: Index, slot: str) -> None:
        with pytest.raises(IndexMismatch, match="drop it first"):
            index.create(slot, DIMENSION)

    def test_dropping_removes_rows_and_state_and_may_be_repeated(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(3)))
        index.write_state(slot, {"snapshot_id": "s"})
        index.drop(slot)
        index.drop(slot)
        assert not index.exists(slot)
        index.create(slot, DIMENSION)
        assert index.count(slot) == 0
        assert index.read_state(slot) is None

    def test_a_collection_may_come_back_with_another_dimension(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(3)))
        index.drop(slot)
        index.create(slot, 3)
        index.upsert(slot, index_rows(range(3), dense=[1.0, 0.0, 0.0]))
        assert index.count(slot) == 3

    def test_an_alias_moves_and_is_no_collection(self, index: Index, slot: str) -> None:
        index.create(OTHER, DIMENSION)
        assert index.alias_target("contract") is None
        index.point_alias("contract", slot)
        assert index.alias_target("contract") == slot
        index.point_alias("contract", OTHER)
        index.point_alias("contract", OTHER)
        assert index.alias_target("contract") == OTHER
        assert not index.exists("contract")
        assert index.collections() == [SLOT, OTHER]

    def test_an_alias_never_points_at_nothing(self, index: Index) -> None:
        with pytest.raises(IndexMismatch):
            index.point_alias("contract", SLOT)

    def test_what_readers_use_is_not_dropped(self, index: Index, slot: str) -> None:
        index.point_alias("contract", slot)
        with pytest.raises(IndexMismatch, match="alias"):
            index.drop(slot)
        assert index.exists(slot)

    @pytest.mark.parametrize("call", ["upsert", "delete", "count", "row_hashes", "write_state", "search"])
    def test_a_missing_collection_is_a_mismatch(self, index: Index, call: str) -> None:
        calls = {
            "upsert": lambda: index.upsert(SLOT, index_rows([1])),
            "delete": lambda: index.delete(SLOT, ["chunk-1"]),
            "count": lambda: index.count(SLOT),
            "row_hashes": lambda: index.row_hashes(SLOT, ["doc"]),
            "write_state": lambda: index.write_state(SLOT, {"a": 1}),
            "search": lambda: index.search_dense(SLOT, vectors(1), visible=readable_by(1), limit=1),
        }
        with pytest.raises(IndexMismatch):
            calls[call]()

    # --- rows ---

    def test_rows_come_back_as_they_were_written(self, index: Index, slot: str) -> None:
        row = index_row(1, doc_id=ODD, uri=ODD, title=ODD, text=ODD, heading_path="", pages="", acl_id=2**31 - 1)
        index.upsert(slot, pa.Table.from_pylist([row, index_row(2)], schema=INDEX_ROW))
        for settled in (False, True):
            if settled:
                self.settle(index)
            found = index.rows(slot, [ODD])
            assert found.schema == SCALAR_ROW
            assert found.to_pylist() == [{name: row[name] for name in SCALAR_ROW.names}]
            assert row_hashes(found, MODEL) == [row["row_hash"]]

    def test_everything_that_is_stored_comes_back_bit_for_bit(self, index: Index, slot: str) -> None:
        odd = [0.1, -0.0, 1e-40, 3.4e38, -1.0, 1 / 3, 2**-126, 0.7]  # neither normalised nor rounded on the way
        rows = [index_row(number, dense=odd if number == 4 else unit_vector(number)) for number in range(30)]
        rows[5] |= {"terms": [], "weights": []}
        rows[6] |= {"terms": [0, 7, 2**31, 2**32 - 3], "weights": [0.1, 1 / 3, 1e-30, 12.5]}
        table = pa.Table.from_pylist(rows, schema=INDEX_ROW)
        index.upsert(slot, table)
        for settled in (False, True):
            if settled:
                self.settle(index)
            found = pa.concat_tables(index.stored(slot, Portion())).sort_by("chunk_id")
            assert found.schema == INDEX_ROW
            assert found.equals(table.combine_chunks())
            assert bits(found) == bits(table)

    def test_stored_rows_are_asked_for_by_range_and_by_document(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(20)))

        def documents(wanted: Portion | list[str]) -> set[str]:
            return {one for table in index.stored(slot, wanted) for one in table["doc_id"].to_pylist()}

        for settled in (False, True):
            if settled:
                self.settle(index)
            assert documents(Portion("doc-00003", "doc-00005")) == {"doc-00003", "doc-00004"}
            assert documents(Portion("doc-00008")) == {"doc-00008", "doc-00009"}
            assert documents(Portion("doc-00010")) == set()
            assert documents(["doc-00002", "doc-99999"]) == {"doc-00002"}
            assert documents([]) == set()

    def test_an_upsert_replaces_rows_of_the_same_id(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(10)))
        self.settle(index)
        index.upsert(slot, index_rows([3], title="new", acl_id=77))
        for settled in (False, True):
            if settled:
                self.settle(index)
            assert index.count(slot) == 10
            assert index.fetch(slot, ["chunk-00003"])["chunk-00003"]["title"] == "new"
            assert index.search_dense(slot, vectors(3), visible=readable_by(77), limit=5)[0].chunk_ids == (
                "chunk-00003",
            )
            assert (
                "chunk-00003" not in index.search_dense(slot, vectors(3), visible=readable_by(3), limit=5)[0].chunk_ids
            )

    def test_deleted_rows_are_gone_everywhere_and_may_come_back(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(10)))
        self.settle(index)
        index.delete(slot, ["chunk-00003", "chunk-00004", "never there"])
        for settled in (False, True):
            if settled:
                self.settle(index)
            assert index.count(slot) == 8
            assert len(index.row_hashes(slot)) == 8
            assert index.fetch(slot, ["chunk-00003"]) == {}
            assert "chunk-00003" not in index.search_dense(slot, vectors(3), visible=UNFILTERED, limit=10)[0].chunk_ids
            assert not index.search_sparse(slot, [{1_003: 1.0}], visible=UNFILTERED, limit=10)[0].chunk_ids
        index.upsert(slot, index_rows([3]))
        assert index.count(slot) == 9
        self.settle(index)
        assert index.search_dense(slot, vectors(3), visible=UNFILTERED, limit=1)[0].chunk_ids == ("chunk-00003",)

    def test_row_hashes_are_complete_and_can_be_asked_by_document(self, index: Index, slot: str) -> None:
        rows = index_rows(range(500))
        index.upsert(slot, rows)
        everything = dict(zip(rows["chunk_id"].to_pylist(), rows["row_hash"].to_pylist(), strict=True))
        for settled in (False, True):
            if settled:
                self.settle(index)
            assert index.row_hashes(slot) == everything
            some = index.row_hashes(slot, ["doc-00000", "doc-00007", "doc-99999"])
            assert sorted(some) == ["chunk-00000", "chunk-00001", "chunk-00014", "chunk-00015"]
            assert index.row_hashes(slot, []) == {}

    def test_many_ids_are_asked_for_in_portions(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(20)))
        absent = [f"doc-{n:05d}" for n in range(5_000)]
        assert len(index.row_hashes(slot, absent)) == 20
        index.delete(slot, [f"chunk-{n:05d}" for n in range(5_000)])
        assert index.count(slot) == 0

    def test_progress_ends_at_the_total(self, index: Index, slot: str) -> None:
        seen: list[tuple[int, int]] = []
        index.upsert(slot, index_rows(range(30)), lambda done, total: seen.append((done, total)))
        assert seen[-1] == (30, 30)

    def test_writing_no_rows_is_no_write(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows([]))
        index.delete(slot, [])
        assert index.count(slot) == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"text": "x" * 65_536},
            {"title": "é" * 40_000},
            {"dense": [float("nan")] * DIMENSION},
            {"weights": [1.0, float("inf"), 1.0]},
            {"weights": [1.0]},
            {"terms": [1, 2, 2**32 - 1]},
            {"uri": None},
        ],
        ids=[
            "long text",
            "long in bytes",
            "nan vector",
            "infinite weight",
            "weights missing",
            "term too large",
            "null",
        ],
    )
    def test_a_row_that_cannot_be_stored_as_it_is_stops_the_whole_table(
        self, index: Index, slot: str, fields: dict[str, object]
    ) -> None:
        schema = pa.schema([field.with_nullable(True) for field in INDEX_ROW])
        table = pa.Table.from_pylist([index_row(1), index_row(2, row_hash="h", **fields)], schema=schema)
        with pytest.raises(IndexMismatch, match="nothing was written"):
            index.upsert(slot, table)
        assert index.count(slot) == 0

    def test_the_longest_text_is_stored(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows([1], text="x" * 65_535))
        self.settle(index)
        assert len(index.fetch(slot, ["chunk-00001"])["chunk-00001"]["text"]) == 65_535

    # --- the slot's record ---

    def test_a_state_is_read_back_with_a_new_revision_each_time(self, index: Index, slot: str) -> None:
        state = {"snapshot_id": "s1", "rows": 3, "building": False, "model": '{"name": "ü"}', "digest": "0" * 64}
        index.write_state(slot, state)
        first = index.read_state(slot)
        index.write_state(slot, first or {})
        second = index.read_state(slot)
        assert first is not None
        assert second is not None
        assert {k: v for k, v in first.items() if k != REVISION} == state
        assert first[REVISION] != second[REVISION]
        assert index.read_state(OTHER) is None

    # --- search ---

    def test_only_rows_of_the_given_access_sets_are_found(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(50)))
        for settled in (False, True):
            if settled:
                self.settle(index)
            (ranking,) = index.search_dense(slot, vectors(7), visible=readable_by(2, 4, 99), limit=50)
            assert sorted(ranking.chunk_ids) == [f"chunk-{n:05d}" for n in range(50) if n % 5 in (2, 4)]
            assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
            (ranking,) = index.search_sparse(slot, [{10: 1.0}], visible=readable_by(2), limit=50)
            assert sorted(ranking.chunk_ids) == [f"chunk-{n:05d}" for n in range(50) if n % 5 == 2 and n % 3 == 0]
            assert index.search_dense(slot, vectors(7), visible=readable_by(), limit=5)[0].chunk_ids == ()
            assert index.search_sparse(slot, [{10: 1.0}], visible=readable_by(), limit=5)[0].chunk_ids == ()

    def test_rows_of_another_tenant_are_out_of_reach_whatever_their_access_set(self, index: Index, slot: str) -> None:
        tenants = ("default", 'b"eta, & co', "Büro")
        rows = [index_row(number, tenant=tenants[number % 3], acl_id=1) for number in range(60)]
        index.upsert(slot, pa.Table.from_pylist(rows, schema=INDEX_ROW))
        for settled in (False, True):
            if settled:
                self.settle(index)
            for position, tenant in enumerate(tenants):
                expected = [f"chunk-{n:05d}" for n in range(60) if n % 3 == position]
                seen = readable_by(1, tenant=tenant)
                (dense,) = index.search_dense(slot, vectors(7), visible=seen, limit=60)
                (sparse,) = index.search_sparse(slot, [dict.fromkeys(range(10, 30), 1.0)], visible=seen, limit=60)
                assert sorted(dense.chunk_ids) == sorted(sparse.chunk_ids) == expected
            (nobody,) = index.search_dense(slot, vectors(7), visible=readable_by(1, tenant="gamma"), limit=60)
            assert nobody.chunk_ids == ()

    def test_a_row_that_moves_to_another_tenant_is_there_once(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(10), tenant="alpha", acl_id=1))
        index.upsert(slot, index_rows(range(5), tenant="beta", acl_id=1))
        for settled in (False, True):
            if settled:
                self.settle(index)
            assert index.count(slot) == 10
            for tenant, expected in (("alpha", range(5, 10)), ("beta", range(5))):
                (found,) = index.search_dense(slot, vectors(7), visible=readable_by(1, tenant=tenant), limit=60)
                assert sorted(found.chunk_ids) == [f"chunk-{n:05d}" for n in expected]

    def test_withheld_documents_are_left_out_and_the_best_of_the_others_stay_exact(
        self, index: Index, slot: str
    ) -> None:
        index.upsert(slot, index_rows(range(60)))
        for settled in (False, True):
            if settled:
                self.settle(index)
            (whole,) = index.search_dense(slot, vectors(7), visible=readable_by(*range(5)), limit=60)
            withheld = tuple(sorted({f"doc-{int(chunk_id[-5:]) // 2:05d}" for chunk_id in whole.chunk_ids[:7]}))
            left = [one for one in whole.chunk_ids if f"doc-{int(one[-5:]) // 2:05d}" not in withheld]
            seen = readable_by(*range(5), withheld=withheld)
            (found,) = index.search_dense(slot, vectors(7), visible=seen, limit=12)
            assert list(found.chunk_ids) == left[:12]
            (sparse,) = index.search_sparse(slot, [dict.fromkeys(range(10, 30), 1.0)], visible=seen, limit=60)
            assert sorted(sparse.chunk_ids) == sorted(left)

    def test_a_narrow_filter_still_finds_the_exact_nearest_rows(self, index: Index, slot: str) -> None:
        acl = [1 if number % 40 == 0 else 2 for number in range(400)]
        rows = [index_row(number, acl_id=acl[number]) for number in range(400)]
        index.upsert(slot, pa.Table.from_pylist(rows, schema=INDEX_ROW))
        self.settle(index)
        queries = vectors(*range(1_000, 1_020))
        found = index.search_dense(slot, queries, visible=readable_by(1), limit=5)
        for query, ranking in zip(queries, found, strict=True):
            scores = {row["chunk_id"]: float(np.dot(query, row["dense"])) for row in rows if row["acl_id"] == 1}
            assert ranking.chunk_ids == tuple(sorted(scores, key=lambda key: -scores[key])[:5])

    def test_each_question_of_a_batch_gets_its_own_answer(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(50)))
        self.settle(index)
        together = index.search_dense(slot, vectors(*range(20)), visible=UNFILTERED, limit=3)
        alone = [index.search_dense(slot, vectors(n), visible=UNFILTERED, limit=3)[0] for n in range(20)]
        assert [one.chunk_ids for one in together] == [one.chunk_ids for one in alone]
        assert [one.chunk_ids[0] for one in together] == [f"chunk-{n:05d}" for n in range(20)]

    def test_bm25_scores_are_inner_products_and_unknown_terms_find_nothing(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(10)))
        self.settle(index)
        query = {1_003: 2.0, 10: 1.0}
        found, nothing, empty = index.search_sparse(slot, [query, {5: 1.0}, {}], visible=UNFILTERED, limit=3)
        assert found.chunk_ids == ("chunk-00003", "chunk-00000", "chunk-00006")
        assert found.scores == pytest.approx((1.0 * 1.0 + 2.0 * 0.25, 1.0, 1.0))
        assert nothing.chunk_ids == empty.chunk_ids == ()

    def test_a_row_without_terms_is_found_by_its_vector_alone(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows([1], terms=[], weights=[]))
        self.settle(index)
        assert index.search_dense(slot, vectors(1), visible=UNFILTERED, limit=1)[0].chunk_ids == ("chunk-00001",)
        assert index.search_sparse(slot, [{2**32 - 2: 1.0}], visible=UNFILTERED, limit=1)[0].chunk_ids == ()

    def test_equal_scores_come_in_the_order_of_ids(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(reversed(range(30)), dense=unit_vector(1), terms=[1], weights=[1.0]))
        self.settle(index)
        expected = tuple(f"chunk-{n:05d}" for n in range(7))
        assert index.search_dense(slot, vectors(1), visible=UNFILTERED, limit=7)[0].chunk_ids == expected
        assert index.search_sparse(slot, [{1: 1.0}], visible=UNFILTERED, limit=7)[0].chunk_ids == expected

    def test_fetch_gives_what_a_hit_shows(self, index: Index, slot: str) -> None:
        index.upsert(slot, index_rows(range(3)))
        fetched = index.fetch(slot, ["chunk-00001", "nowhere"])
        assert fetched == {"chunk-00001": {name: index_row(1)[name] for name in HIT_FIELDS}}
