"""One configured installation: what every step needs at hand, opened only when it is first used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import Config, load_config
from pipelines.governance.access import AclRegistry, SourceLabels
from pipelines.home import Home
from pipelines.lake.blobs import BlobStore
from pipelines.lake.events import EventLog
from pipelines.lake.lock import writer_lock
from pipelines.lake.tables import Lake
from pipelines.recipe import Recipe
from pipelines.sources.section import SourceSection
from pipelines.sources.surroundings import AwsClient, Surroundings

if TYPE_CHECKING:
    from pipelines.index.milvus import MilvusIndex
    from pipelines.index.protocol import Index


class Project:
    """A configuration and its data folder."""

    def __init__(
        self, config: Config, home: Home, *, index: Index | None = None, config_path: Path | None = None
    ) -> None:
        self.config = config
        self.config_path = config_path  # where it was read from, for who looks whether it has changed since
        self.home = home
        self.lake = Lake(home.lake)
        self.blobs = BlobStore(home.blobs)
        self.events = EventLog(home)
        self.aws_client: AwsClient | None = None  # the Dagster resource puts its own here
        self.kept: dict[str, object] = {}  # what one step of an update keeps for the next in this process
        self._given = index
        self._index: MilvusIndex | None = None

    @classmethod
    def open(cls, config_path: Path, home: Home) -> Project:
        """Read the configuration; nothing is created or connected yet.

        Raises:
            ConfigError: the configuration is missing or wrong.
        """
        return cls(load_config(config_path), home, config_path=config_path)

    @cached_property
    def recipe(self) -> Recipe:
        """The fingerprints of today's configuration."""
        return Recipe(self.config)

    def labels(self, section: SourceSection, registry: AclRegistry) -> SourceLabels:
        """Today's access rules of a source.

        Raises:
            AccessError: a rule is malformed.
        """
        return SourceLabels(section, registry, fold_case=self.config.principals.fold_case)

    def surroundings(self) -> Surroundings:
        """What a source may use; its own each time, because each source is contacted in a thread of its own."""
        own = Surroundings.of(self.home, index=self.config.index, streams=self.config.streams)
        return replace(own, aws_client=self.aws_client)

    @property
    def alias(self) -> str:
        """The alias that readers resolve: the index's name."""
        return self.config.index

    def index(self) -> Index:
        """The vector index; Milvus Lite is started if none is configured and none runs.

        Raises:
            IndexUnavailable: it cannot be reached or started.
        """
        if self._given is not None:
            return self._given
        from pipelines.index.milvus import MilvusIndex
        from pipelines.index.server import ensure_server

        # Looked at each time (0.5 ms): a step that is tried again must find Milvus Lite although it was killed.
        address = self.config.milvus.address() or ensure_server(self.home)
        if self._index is None or self._index.address != address:
            self._index = MilvusIndex(address)
        return self._index

    @contextmanager
    def writer(self, run_id: str, purpose: str) -> Iterator[None]:
        """Hold the writer lock of the data folder.

        Raises:
            WriterBusy: another update holds it.
        """
        self.home.claim()
        with writer_lock(self.home.writer_lock, run_id=run_id, purpose=purpose):
            yield
