from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.index.address import Address
from pipelines.index.milvus import MilvusIndex
from pipelines.index.protocol import Index
from tests.fakes.index_contract import IndexContract

pytestmark = pytest.mark.integration


class TestMilvusLite(IndexContract):
    @pytest.fixture
    def index(self, lite: Address) -> Iterator[Index]:
        index = MilvusIndex(lite)
        yield index
        index.close()
