from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipelines.index.filters import any_integer, any_string, portions, quote
from pipelines.index.rows import HASHED_FIELDS, INDEX_ROW, STORED_SCALARS, row_hash, row_hashes
from pipelines.index.wire import wire_portions
from tests.fakes.rows import index_row, index_rows


def test_every_stored_scalar_but_the_hash_itself_is_hashed() -> None:
    assert sorted(HASHED_FIELDS) == sorted(set(STORED_SCALARS) - {"row_hash"})


@pytest.mark.parametrize("name", HASHED_FIELDS)
def test_a_change_of_any_field_changes_the_hash(name: str) -> None:
    row = index_row(1)
    other = {**row, name: 7 if isinstance(row[name], int) else "other"}
    assert row_hash(other, "m") != row_hash(row, "m")


def test_the_model_is_hashed_and_the_vectors_are_not() -> None:
    row = index_row(1)
    assert row_hash(row, "m") != row_hash(row, "n")
    assert row_hash({**row, "dense": [], "terms": [], "weights": []}, "m") == row_hash(row, "m")


def test_a_table_hashes_as_its_rows_do() -> None:
    rows = index_rows(range(5))
    assert row_hashes(rows, "m") == [row_hash(row, "m") for row in rows.to_pylist()]
    assert row_hashes(rows.slice(0, 0), "m") == []


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("plain", '"plain"'),
        ('a"b', '"a\\"b"'),
        ("a\\", '"a\\\\"'),
        ("a\nb", '"a\\nb"'),
        ("a' or 1==1", '"a\' or 1==1"'),
    ],
)
def test_a_string_is_quoted_so_that_it_cannot_end_early(value: str, literal: str) -> None:
    assert quote(value) == literal


def test_equal_sets_of_integers_are_equal_expressions() -> None:
    assert any_integer("acl_id", [3, 1, 3]) == any_integer("acl_id", (1, 3)) == "acl_id in [1, 3]"
    assert any_integer("acl_id", np.array([2], np.int64)) == "acl_id in [2]"
    assert any_string("doc_id", ["a", "b"]) == 'doc_id in ["a", "b"]'


def test_portions_cover_everything_once() -> None:
    values = [str(n) for n in range(25)]
    found = list(portions(values, 10))
    assert [len(one) for one in found] == [10, 10, 5]
    assert [value for one in found for value in one] == values


def test_large_rows_travel_in_more_portions() -> None:
    rows = pa.concat_tables([index_rows(range(10)), index_rows(range(10, 310), text="x" * 65_000)])
    found = list(wire_portions(rows))
    assert len(found) > 2
    assert all(sum(len(row["text"]) for row in one) <= 8 * 1024 * 1024 for one in found)
    assert [row["chunk_id"] for one in found for row in one] == rows["chunk_id"].to_pylist()


def test_small_rows_travel_two_thousand_at_a_time() -> None:
    assert [len(one) for one in wire_portions(index_rows(range(2_001)))] == [2_000, 1]
    assert list(wire_portions(index_rows([]))) == []


def test_slices_of_a_table_keep_their_own_vectors() -> None:
    (one,) = wire_portions(index_rows(range(10)).slice(4, 3))
    for row, number in zip(one, range(4, 7), strict=True):
        assert row["dense"].tolist() == pytest.approx(index_row(number)["dense"])
        assert row["sparse"] == dict(zip(index_row(number)["terms"], [1.0, 0.5, 0.25], strict=True))


def test_the_schema_names_no_date_and_no_version() -> None:
    assert not {"version", "ordinal", "modified_at"} & set(INDEX_ROW.names)
