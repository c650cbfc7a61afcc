from __future__ import annotations

import pytest

from pipelines.errors import IndexUnavailable
from pipelines.index.protocol import Index
from tests.fakes.index import FakeIndex
from tests.fakes.index_contract import IndexContract
from tests.fakes.rows import DIMENSION, index_rows


class TestFakeIndex(IndexContract):
    @pytest.fixture
    def index(self) -> Index:
        return FakeIndex()


def test_the_fake_counts_its_writes() -> None:
    index = FakeIndex()
    index.create("a", DIMENSION)
    index.upsert("a", index_rows(range(3)))
    index.delete("a", ["chunk-00001"])
    assert index.writes == {"create": 1, "upsert": 3, "delete": 1}


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 3)])
def test_the_fake_fails_before_or_after_it_applied_a_write(when: str, rows: int) -> None:
    index = FakeIndex()
    index.create("a", DIMENSION)
    index.fail("upsert", when)
    with pytest.raises(IndexUnavailable):
        index.upsert("a", index_rows(range(3)))
    assert index.count("a") == rows
    index.upsert("a", index_rows(range(3)))
    assert index.count("a") == 3
