"""What all examples of a process share: folders, configurations, an index, and stand-ins for what would cost time."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import yaml

from pipelines.config import Config, load_config
from pipelines.embedding import warm
from pipelines.embedding.stage import OUTPUT
from pipelines.home import Home
from pipelines.identity import acl_id, text_hash
from pipelines.index.milvus import MilvusIndex
from pipelines.index.protocol import Index
from pipelines.index.server import ensure_server, server_status, stop_server
from pipelines.parsing import stage as parsing
from pipelines.project import Project
from pipelines.sources.announced.announcements import AnnouncedSection
from pipelines.sources.announced.event_source import EventSource
from pipelines.sources.base import Listing
from pipelines.sources.filesystem.folder import Folder
from pipelines.sources.registry import KINDS, Kind
from pipelines.sources.section import AccessRule
from pipelines.update.deriving import embeddings
from pipelines.update.looking.look import Look
from tests.fakes.index import FakeIndex
from tests.integration._actions import parse_here
from tests.integration._truth_model import ADMIN, FEED, FILES, Access, Rules, access
from tests.integration._truth_oracle import Oracle, Readers
from tests.integration._truth_trap import Trap, trapped

HR: Readers = ("group:hr",)
STAFF: Readers = ("group:staff",)
BOARD: Readers = ("group:board", "user:ada")
NOBODY: Readers = ()
ALL_READERS = (HR, STAFF, BOARD, NOBODY, ADMIN)

FILE_RULES: tuple[Rules, ...] = (
    (("hr/", HR), ("", STAFF)),
    (("", STAFF),),
    (("hr/", BOARD), ("a.md", NOBODY), ("", STAFF)),
    (("a.md", HR), ("hr/deep/", BOARD)),
)
FEED_RULES: tuple[Rules, ...] = ((), (("secret/", BOARD),), (("", STAFF),))

TENANTS = ("default", "beta")

ALIAS = "truth"


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same for one example."""

    batch: int = 20_000  # events one update applies
    guarded: bool = False
    slots: int = 2
    kept: int = 2  # snapshots that maintenance keeps
    index_may_die: bool = False


class Feed(AnnouncedSection):
    """A source that is what its events say, wherever they come from."""

    kind: Literal["feed"]


class Bench:
    """A scratch folder, configurations, fingerprints, rows that were worked out, and an index.

    Args:
        folder: for everything that examples make.
        model: the folder of a tiny model, of which nothing but its tokenizer is used.
        lite: examples run on a real Milvus Lite process, one for all of them.
    """

    def __init__(self, folder: Path, model: Path, *, lite: bool = False) -> None:
        self.folder, self._model = folder, model
        self._lite = Home(folder / "lite") if lite else None
        self._configs: dict[object, Config] = {}
        self.meanwhile: Callable[[], None] | None = None  # happens once, between a listing of the feed and its fetch
        self.unlistable: set[str] = set()  # folders that cannot be read; "": the whole source
        tenants = dict.fromkeys((FILES, FEED), TENANTS[0])
        self.oracle = Oracle(self.config(Setting(), FILE_RULES[0], FEED_RULES[0], tenants))
        self.sets: dict[int, Access] = {
            acl_id(tenant, readers): access(tenant, readers) for tenant in TENANTS for readers in ALL_READERS
        }

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def is_real(self) -> bool:
        """Whether the index is a process."""
        return self._lite is not None

    def empty_index(self) -> Index:
        """An index that holds nothing."""
        if self._lite is None:
            return FakeIndex()
        from pymilvus import MilvusClient

        index = self.index_again()
        client = MilvusClient(index.uri, token=index.address.token or "")
        if index.alias_target(ALIAS) is not None:
            client.drop_alias(ALIAS)
        for name in index.collections():
            client.drop_collection(name)
        client.close()
        return index

    def index_again(self) -> MilvusIndex:
        """What a process that begins finds: Milvus Lite, started again if it was killed."""
        assert self._lite is not None
        return MilvusIndex(ensure_server(self._lite, linger=False))

    def kill_index(self) -> None:
        """The index process ends at once, like by a power cut of its own."""
        assert self._lite is not None
        pid = server_status(self._lite).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def stop_index(self) -> None:
        """Nothing is left running."""
        if self._lite is not None:
            stop_server(self._lite)

    def config(self, setting: Setting, file_rules: Rules, feed_rules: Rules, tenants: dict[str, str]) -> Config:
        """As read from a file, once."""
        key = (setting, file_rules, feed_rules, tuple(tenants.items()))
        if key not in self._configs:
            guard = {"min_documents": 2, "max_deleted_share": 0.5} if setting.guarded else {"max_deleted_share": 1.0}
            files = {"name": FILES, "kind": "filesystem", "path": str(self.files), "access": _rules(file_rules)}
            data = {
                "index": ALIAS,
                "encoder": {"model": str(self._model), "dtype": "float32"},
                "milvus": {"slots": setting.slots},
                "streams": {"max_events_per_update": setting.batch},
                "guard": guard,
                "retention": {"snapshots": setting.kept, "history_days": 0},
                "sources": [files | {"tenant": tenants[FILES]}],
            }
            path = self.folder / "lockstep.yaml"
            path.write_text(yaml.safe_dump(data), encoding="utf-8")
            config = load_config(path)
            rules = tuple(AccessRule(**rule) for rule in _rules(feed_rules))
            feed = Feed(name=FEED, kind="feed", access=rules, tenant=tenants[FEED])
            self._configs[key] = config.model_copy(update={"sources": (*config.sources, feed)})
        return self._configs[key]

    def project(self, config: Config, home: Path, index: Index) -> Project:
        """A process that begins; what it would read of the model's files is at hand."""
        project = Project(config, Home(home), index=index)
        project.__dict__["recipe"] = self.oracle.recipe
        return project

    def clear(self, *folders: Path) -> None:
        """Nothing is in these folders."""
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)

    def opened(self, section: Any, _around: Any) -> Folder:
        """The folder as a source, of which some parts cannot be read."""
        return Folder(section, scan=self._scan)

    def _scan(self, path: bytes) -> Any:
        name = os.fsdecode(path)
        if any(name.rstrip("/").endswith("/files" + ("/" + one if one else "")) for one in self.unlistable):
            raise PermissionError(13, "as the example asks", name)
        return os.scandir(path)


def _rules(rules: Rules) -> list[dict[str, Any]]:
    return [
        {"match": f"{pattern}**" if not pattern or pattern.endswith("/") else pattern, "readers": list(readers)}
        for pattern, readers in rules
    ]


@contextmanager
def bench_in(folder: Path, model: Path, *, lite: bool = False) -> Iterator[tuple[Bench, Trap]]:
    """The shared parts, with everything in place that makes an example cheap."""
    trap, bench = Trap(), Bench(folder, model, lite=lite)
    plain, listing = KINDS["filesystem"], Look.listing

    def listing_with_an_interruption(look: Look) -> Listing:
        found = listing(look)
        meanwhile, bench.meanwhile = bench.meanwhile, None
        if meanwhile is not None and look.section.name == FEED:
            meanwhile()
        return found

    with ExitStack() as stack:
        stack.callback(bench.stop_index)
        stack.enter_context(patch.object(parsing, "Pool", parsing.Pool))
        parse_here()
        stack.enter_context(patch.object(embeddings, "encode_stage", lambda _config, **_: bench_vectors(bench)))
        stack.enter_context(patch.object(warm, "encoder_for", lambda _config, **_: _Questions()))
        kinds = {"filesystem": replace(plain, open=bench.opened), "feed": Kind(Feed, EventSource)}
        stack.enter_context(patch.dict(KINDS, kinds))
        stack.enter_context(patch.object(Look, "listing", listing_with_an_interruption))
        stack.enter_context(trapped(trap))
        yield bench, trap


class _Questions:
    """In place of the encoder, for questions."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array([_vector(text_hash(text)) for text in texts], np.float32)


def bench_vectors(bench: Bench) -> Any:
    """In place of the encoder, for texts: vectors of unit length that depend on nothing but the text's hash."""

    def stage(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            vectors = [_vector(key) for key in batch["text_hash"].to_pylist()]
            fingerprints = pa.array([bench.oracle.recipe.model_fp] * batch.num_rows, pa.string())
            columns = [
                batch["text_hash"],
                fingerprints,
                pa.array(vectors, pa.list_(pa.float32())),
                pa.nulls(batch.num_rows, pa.string()),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=OUTPUT)

    return stage


def _vector(key: str) -> npt.NDArray[np.float32]:
    values = np.frombuffer(bytes.fromhex(key), np.uint8).astype(np.float32) + 1
    return values / np.linalg.norm(values)
