"""What the tests of whole updates share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.home import Home
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
def stages(server: ForkServer, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Stages]:
    """Three states of one corpus, on one Milvus Lite process that all runs share."""
    folder = tmp_path_factory.mktemp("stages")
    home = Home(folder / "milvus")
    home.index.mkdir(parents=True)
    (home.index / "secret").write_text(os.environ[TOKEN].partition(":")[2], encoding="ascii")
    yield Stages(server, folder, ensure_server(home, linger=False).uri, tiny_model)
    stop_server(home)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker without topics."""
    with kafka(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture
def topic(broker: Broker, tmp_path: Path) -> Topic:
    """A new topic of it, which nobody follows yet."""
    return Topic(broker, tmp_path)
