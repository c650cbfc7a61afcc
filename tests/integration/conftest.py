"""What the tests of whole updates share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.home import Home
from pipelines.index.address import Address
from pipelines.index.milvus import MilvusIndex
from pipelines.index.server import ensure_server, stop_server
from tests.integration._forkserver import ForkServer, fork_server
from tests.integration._kafka_topic import Topic
from tests.integration._stages import TOKEN, Stages
from tests.integration.servers.kafka import Broker, kafka

os.environ.setdefault(TOKEN, f"lockstep:{secrets.token_urlsafe(32)}")  # before any process inherits the environment


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """Runs parts of the library, or the whole command, each in a process of its own."""
    with fork_server() as running:
        yield running


@pytest.fixture(scope="session")
def lite_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """One Milvus Lite process for all tests whose subject is not its start, its end or its folder."""
    home = _home_with_the_token(tmp_path_factory.mktemp("lite"))
    yield ensure_server(home, linger=False)
    stop_server(home)


@pytest.fixture
def lite(lite_process: Address) -> Iterator[Address]:
    """The same, empty, for one test: what it makes there goes when it ends."""
    yield lite_process
    index = MilvusIndex(lite_process)
    for collection in index.collections():
        for alias in index._client.list_aliases(collection)["aliases"]:
            index._client.drop_alias(alias)
        index.drop(collection)
    index.close()


@pytest.fixture
def milvus(lite: Address) -> dict[str, str]:
    """The section `milvus` of a configuration that uses it."""
    return {"uri": lite.uri, "token_env": TOKEN}


@pytest.fixture(scope="session")
def stages(server: ForkServer, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Stages]:
    """Three states of one corpus, on one Milvus Lite process that all runs share."""
    folder = tmp_path_factory.mktemp("stages")
    home = _home_with_the_token(folder / "milvus")
    yield Stages(server, folder, ensure_server(home, linger=False).uri, tiny_model)
    stop_server(home)


def _home_with_the_token(folder: Path) -> Home:
    home = Home(folder)
    home.index.mkdir(parents=True)
    (home.index / "secret").write_text(os.environ[TOKEN].partition(":")[2], encoding="ascii")
    return home


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker without topics, for all tests of this process; each makes topics of its own."""
    with kafka(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture
def topic(broker: Broker, tmp_path: Path) -> Topic:
    """A new topic of it, which nobody follows yet."""
    return Topic(broker, tmp_path)
