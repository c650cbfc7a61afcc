from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.home import Home
from pipelines.index.address import Address
from pipelines.index.milvus import MilvusIndex
from pipelines.index.protocol import Index
from pipelines.index.server import ensure_server, stop_server
from tests.fakes.index_contract import IndexContract

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    home = Home(Path(tmp_path_factory.mktemp("home")))
    yield ensure_server(home, linger=False)
    stop_server(home)


class TestMilvusLite(IndexContract):
    @pytest.fixture
    def index(self, server: Address) -> Iterator[Index]:
        index = MilvusIndex(server)
        yield index
        for alias in ("contract",):
            if index.alias_target(alias) is not None:
                index._client.drop_alias(alias)
        for collection in index.collections():
            index.drop(collection)
        index.close()
