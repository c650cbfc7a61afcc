"""One installation to play with: a folder, a feed of announced versions, tables, and an index in memory."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import yaml

from pipelines.config import Config, load_config
from pipelines.embedding.stage import OUTPUT
from pipelines.errors import MassDeletionRefused, SnapshotNotFound, SourceError
from pipelines.home import Home
from pipelines.identity import acl_id, digest
from pipelines.lake.events import Event
from pipelines.project import Project
from pipelines.sources.announced.announcements import AnnouncedSection
from pipelines.sources.announced.event_source import EventSource
from pipelines.sources.base import Listing
from pipelines.sources.filesystem.folder import Folder
from pipelines.sources.registry import KINDS, Kind
from pipelines.sources.section import AccessRule
from pipelines.update.applying import approvals
from pipelines.update.applying.pending import pending
from pipelines.update.looking import observe, progress
from pipelines.update.looking.look import Look
from pipelines.update.snapshot.rollback import rollback
from tests.fakes.index import FakeIndex
from tests.integration._actions import parse_here
from tests.integration._truth_lake import Memory, MixedLake, reading_each_version_once
from tests.integration._truth_model import FEED, FILES, Announced, Key, Model, Readers, Rules
from tests.integration._truth_oracle import Oracle
from tests.integration._truth_trap import Crash, How, Trap, trapped
from tests.updating import update

HR: Readers = ("group:hr",)
STAFF: Readers = ("group:staff",)
BOARD: Readers = ("group:board", "user:ada")
NOBODY: Readers = ()
ALL_READERS = (HR, STAFF, BOARD, NOBODY, ("role:admin",))

FILE_RULES: tuple[Rules, ...] = (
    (("hr/", HR), ("", STAFF)),
    (("", STAFF),),
    (("hr/", BOARD), ("a.md", NOBODY), ("", STAFF)),
    (("a.md", HR), ("hr/deep/", BOARD)),
)
FEED_RULES: tuple[Rules, ...] = ((), (("secret/", BOARD),), (("", STAFF),))

FILE_NAMES = ("a.md", "b.md", "hr/c.md", "hr/deep/d.md")

_LONG_AGO = 1_000_000_000  # modification times lie there, each another one, so that no file counts as just written


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same for one example."""

    batch: int = 20_000  # events one update applies
    guarded: bool = False
    slots: int = 2
    real: bool = False  # only real tables


class Feed(AnnouncedSection):
    """A source that is what its events say, wherever they come from."""

    kind: Literal["feed"]


class Bench:
    """What many examples share: a scratch folder, configurations, fingerprints, rows that were worked out."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self._model = folder, model
        self._configs: dict[object, Config] = {}
        self.meanwhile: Callable[[], None] | None = None  # happens once, between a listing of the feed and its fetch
        self.unlistable: set[str] = set()  # folders that cannot be read; "": the whole source
        self.oracle = Oracle(self.config(Setting(), FILE_RULES[0], FEED_RULES[0]))
        self.ids = {acl_id("default", readers): frozenset(readers) for readers in ALL_READERS}

    @property
    def files(self) -> Path:
        return self.folder / "files"

    def config(self, setting: Setting, file_rules: Rules, feed_rules: Rules) -> Config:
        """As read from a file, once."""
        key = (replace(setting, real=False), file_rules, feed_rules)
        if key not in self._configs:
            guard = {"min_documents": 2, "max_deleted_share": 0.5} if setting.guarded else {"max_deleted_share": 1.0}
            data = {
                "index": "truth",
                "encoder": {"model": str(self._model), "dtype": "float32"},
                "milvus": {"slots": setting.slots},
                "streams": {"max_events_per_update": setting.batch},
                "guard": guard,
                "sources": [
                    {"name": FILES, "kind": "filesystem", "path": str(self.files), "access": _access(file_rules)},
                ],
            }
            path = self.folder / "lockstep.yaml"
            path.write_text(yaml.safe_dump(data), encoding="utf-8")
            config = load_config(path)
            feed = Feed(name=FEED, kind="feed", access=tuple(AccessRule(**rule) for rule in _access(feed_rules)))
            self._configs[key] = config.model_copy(update={"sources": (*config.sources, feed)})
        return self._configs[key]

    def project(self, config: Config, home: Path, index: FakeIndex, memory: Memory | None) -> Project:
        """A process that begins; what it would read of the model's files is at hand."""
        project = Project(config, Home(home), index=index)
        project.__dict__["recipe"] = self.oracle.recipe
        if memory is not None:
            project.lake = MixedLake(project.home.lake, memory)
        return project


def _access(rules: Rules) -> list[dict[str, Any]]:
    return [
        {"match": f"{pattern}**" if not pattern or pattern.endswith("/") else pattern, "readers": list(readers)}
        for pattern, readers in rules
    ]


class World:
    """One example: the model, the installation, and what the library does to it."""

    def __init__(self, bench: Bench, trap: Trap, setting: Setting) -> None:
        self._bench, self._trap, self.setting = bench, trap, setting
        self.model = Model(FILE_RULES[0], FEED_RULES[0])
        self._home = bench.folder / "home"
        for folder in (self._home, bench.files):
            shutil.rmtree(folder, ignore_errors=True)
        bench.files.mkdir()
        self.index = FakeIndex()
        self._memory = None if setting.real else Memory()
        self.undelivered: list[Announced] = []
        self.unhinted: set[str] = set()
        self.rejected = 0
        self.break_off(None)
        self._clock = 0
        self._served: dict[Key, tuple[bytes, int]] = {}  # content and version of each document when all was at rest
        self._deleted: dict[Key, int] = {}  # version of each deleted document then
        self.back = False  # an earlier snapshot was brought back since
        self.open()

    def open(self) -> None:
        """A process begins."""
        config = self._bench.config(self.setting, self.model.file_rules, self.model.feed_rules)
        self.project = self._bench.project(config, self._home, self.index, self._memory)

    # --- what happens outside ---

    def write(self, uri: str, content: bytes) -> None:
        """Create or edit a file."""
        path = self._bench.files / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self._clock += 1
        os.utime(path, (_LONG_AGO + self._clock, _LONG_AGO + self._clock))
        self.model.files[uri] = content
        self._touched(uri)

    def touch(self, uri: str) -> None:
        """The same file under another time."""
        if uri in self.model.files:
            self.write(uri, self.model.files[uri])

    def remove(self, uri: str) -> None:
        """Delete a file."""
        if self.model.files.pop(uri, None) is not None:
            (self._bench.files / uri).unlink()
            self._touched(uri)

    def rename(self, uri: str, to: str) -> None:
        """Move a file, over another one perhaps; its time stays."""
        if uri in self.model.files and uri != to:
            (self._bench.files / to).parent.mkdir(parents=True, exist_ok=True)
            (self._bench.files / uri).replace(self._bench.files / to)
            self.model.files[to] = self.model.files.pop(uri)
            self._touched(uri, to)

    def copy(self, uri: str, to: str) -> None:
        """A second file of the same content."""
        if uri in self.model.files and uri != to:
            self.write(to, self.model.files[uri])

    def _touched(self, *uris: str) -> None:
        self.unhinted |= set(uris)
        self.model.note()

    def rules(self, files: int, feed: int) -> None:
        """Other access rules, in the configuration."""
        self.model.file_rules, self.model.feed_rules = FILE_RULES[files], FEED_RULES[feed]
        self.model.note()
        self.open()

    def announce(self, uri: str, version: int, content: bytes | None, readers: Readers | None) -> None:
        """Somebody produces a version of a document; it arrives later."""
        self.undelivered.append(Announced(uri, version, content, readers))

    def arrive(self, chosen: Sequence[int], *, again: bool = False) -> None:
        """Some of what was produced arrives, in that order; `again`: each twice, and older ones once more."""
        picked = [self.undelivered[n % len(self.undelivered)] for n in chosen] if self.undelivered else []
        batch = list(dict.fromkeys(picked))
        self.undelivered = [one for one in self.undelivered if one not in batch]
        events = [_event(one, delivery) for delivery in range(1 + again) for one in batch]
        if again:
            events += [_event(one, 9) for versions in self.model.announced.values() for one in versions[:2]]
        self.project.events.append(events)
        for one in batch:
            known = replace(one, event_id=_identity(one))
            if known not in self.model.announced.setdefault(one.uri, []):
                self.model.announced[one.uri].append(known)
        self.model.note()

    def hint(self, uri: str, *, subtree: bool = False, times: int = 1) -> None:
        """A word about the folder: late, early, twice or for nothing."""
        self._clock += 1
        self.project.events.append(
            [Event(FILES, uri, "changed", f"watch:{self._clock}:{n}", subtree=subtree) for n in range(times)]
        )
        self.unhinted = {one for one in self.unhinted if one != uri and not (subtree and one.startswith(uri))}

    def reject(self) -> None:
        """A message that nobody understands."""
        self.rejected += 1
        event = Event(
            FEED,
            "",
            "rejected",
            f"webhook:bad-{self.rejected}",
            content=b"?",
            size_bytes=1,
            error_class="NotJson",
            error="no JSON",
        )
        self.project.events.append([event])

    def break_off(self, folder: str | None) -> None:
        """Reading that folder of the source fails from now on ("": the whole source); None: nothing fails any more."""
        self._bench.unlistable = set() if folder is None else {folder}

    # --- what the library does ---

    def update(self, *, scan: bool, step: str | None = None, write: tuple[int, How] | None = None) -> None:
        """An update, perhaps one that dies at the beginning of a step or at a write; what it refuses is refused."""

        def before(name: str) -> None:
            if name == step:
                raise Crash(name)

        self._unrest(lambda: update(self.project, scan=scan, before=before), write, None)

    def observe(self, source: str, mode: Any, *, write: tuple[int, How] | None = None) -> None:
        """A look at one source, perhaps one that dies."""
        self._unrest(lambda: observe.observe(self.project, source, run_id="look", mode=mode), write, None)

    def arrive_during_a_look(self, chosen: Sequence[int]) -> None:
        """Some of what was produced arrives after a look has listed the feed, and before it reads the contents."""
        self._bench.meanwhile = lambda: self.arrive(chosen)
        self.observe(FEED, "hints")
        self._bench.meanwhile = None

    def rollback(self) -> None:
        """Back to the snapshot before, if there is one."""

        def back() -> None:
            with suppress(SnapshotNotFound), self.project.writer("back", "rollback"):
                rollback(self.project, run_id="back")

        self.back = True
        self._unrest(back, None, None)

    def _unrest(self, act: Any, write: tuple[int, How] | None, source: str | None) -> None:
        # A look at a folder that cannot be read uses up the hints on it: it takes another one, or a listing.
        self.unhinted |= {u for u in FILE_NAMES for f in self._bench.unlistable if f and u.startswith(f)}
        if write is not None:
            self._trap.arm(*write, source=source)
        try:
            with suppress(SourceError):
                act()
        except Crash:
            self.open()
        finally:
            self._trap.disarm()
        self.check_access()

    # --- coming to rest ---

    def settle(self, *, scan: bool) -> None:
        """Everything arrives and is applied; by listings, or by announcements alone."""
        self.break_off(None)
        self.arrive(range(len(self.undelivered)))
        for source in (FILES, FEED):
            progress.change(self.project.home, source, retry_at=None)
        if not scan:
            for uri in sorted(self.unhinted):
                self.hint(uri)
            observe.observe(self.project, FILES, run_id="look", mode="hints")
        observe.observe(self.project, FEED, run_id="look", mode="hints")
        listed = scan
        for _ in range(60):
            with suppress(MassDeletionRefused):
                done = update(self.project, "settle", scan=scan)
                scan = False
                if not any(one.announced or one.found for one in pending(self.project)):
                    break
            for request in approvals.requests(self.project):
                if request.approved_by is None:
                    approvals.approve(self.project, request.source, by="operator", run_id="settle")
        else:
            raise AssertionError(f"still pending after sixty updates: {pending(self.project)}")
        if self.back and not done.candidate.built:
            update(self.project, "forward", scan=False, full=True)
        self.back = False
        self.unhinted.clear()
        self.check(listed=listed)

    def check(self, *, listed: bool) -> None:
        """The index holds what the model says, each row once; manifest, versions and dead letters agree."""
        documents = {(row["source"], row["uri"]): row for row in self.project.lake.read("documents").to_pylist()}
        served = self._expected(documents)
        now = self.model.now()
        rows: dict[str, str] = {}
        for (source, uri), content in served.items():
            rows |= self._bench.oracle.rows(source, uri, content, now[source, uri].readers)
        live = self.index.alias_target("truth")
        assert live is not None
        held = self.index.row_hashes(live)
        assert held == rows, _difference(held, rows, self.index._rows(live, None))
        state = self.index.read_state(live)
        assert state is not None
        assert state["digest"] == digest(rows.values())
        assert state["rows"] == len(rows)
        self._check_letters(now, listed=listed)
        self._served = {key: (content, documents[key]["version"]) for key, content in served.items()}
        self._deleted = {key: row["version"] for key, row in documents.items() if row["status"] == "deleted"}
        self.model.rest({key: content for key, (content, _) in self._served.items()})
        self.check_access()

    def _expected(self, documents: dict[Key, dict[str, Any]]) -> dict[Key, bytes]:
        """The content that each document is to be shown as; a document that cannot be read keeps an earlier one."""
        served: dict[Key, bytes] = {}
        now = self.model.now()
        for key, truth in now.items():
            row = documents.get(key)
            assert row is not None, f"{key} is lost"
            before = self._served.get(key)
            if self._bench.oracle.readable(key[1], truth.content):
                served[key] = truth.content
                assert row["status"] == "active", (key, row["status"])
                assert row["quarantined_hash"] is None, key
            elif row["status"] == "active":
                contents = {one for one in self.model.contents(key) if self._bench.oracle.readable(key[1], one)}
                by_hash = {_hash(one): one for one in contents}
                assert row["content_hash"] in by_hash, f"{key} shows what it never was"
                served[key] = by_hash[row["content_hash"]]
            else:
                assert before is None or self.model.was_away(key), f"{key} lost its last good version"
            if key in served:
                assert row["content_hash"] == _hash(served[key]), key
                self._check_version(key, row["version"], served[key])
        for key, row in documents.items():
            assert key in now or row["status"] == "deleted", f"{key} is still {row['status']}"
        return served

    def _check_version(self, key: Key, version: int, content: bytes) -> None:
        """Up by one for each content that an update saw, and never without a reason."""
        before, number = self._served.get(key, (None, self._deleted.get(key, 0)))
        most = number + self.model.changes(key)
        least = number + (before != content)
        assert least <= version <= most, f"{key} is version {version}, and may be {least} to {most}"

    def _check_letters(self, now: Any, *, listed: bool) -> None:
        from pipelines.lake.dead_letters import open_letters

        letters = open_letters(self.project.lake).to_pylist()
        failed = {(row["source"], row["uri"]) for row in letters if row["stage"] == "parse"}
        broken = {key for key, truth in now.items() if not self._bench.oracle.readable(key[1], truth.content)}
        assert failed == broken, (failed, broken)
        others = [(row["stage"], row["uri"]) for row in letters if row["stage"] not in ("parse", "event")]
        assert not (listed and others), others  # what failed to be listed is only well again when it is listed
        assert sum(row["stage"] == "event" for row in letters) == self.rejected

    def check_access(self) -> None:
        """At any time the index shows only what was so, and to nobody who could not read it then or since."""
        live = self.index.alias_target("truth")
        if live is None:
            return
        for row in self.index._rows(live, None):
            key = (row["source"], row["uri"])
            readers = self._bench.ids[row["acl_id"]]
            allowed: set[str] = set()
            known = False
            for content in self.model.contents(key, ever=self.back):
                if self._bench.oracle.readable(key[1], content) and row["chunk_id"] in self._bench.oracle.rows(
                    *key, content, ("role:admin",)
                ):
                    known = True
                    allowed |= self.model.may_read(key, content, ever=self.back)
            assert known, f"{key} shows a text that it did not have: {row['text']!r}"
            assert readers <= allowed, f"{key} shows {row['text']!r} to {readers - allowed}"

    def check_clean_build(self) -> None:
        """A full build of what there is in a fresh home has the same digest."""
        served = {key: content for key, (content, _) in self._served.items()}
        home = self._bench.folder / "clean"
        shutil.rmtree(home, ignore_errors=True)
        kept = dict(self.model.files)
        live = self.index.alias_target("truth")
        assert live is not None
        state = self.index.read_state(live)
        assert state is not None
        try:
            for uri, content in kept.items():  # what cannot be read is there as it is shown
                (self._bench.files / uri).write_bytes(served.get((FILES, uri), content))
                os.utime(self._bench.files / uri, (_LONG_AGO, _LONG_AGO))
            index = FakeIndex()
            project = self._bench.project(self.project.config, home, index, None)
            events = []
            for uri, versions in self.model.announced.items():
                newest = max(versions, key=lambda one: one.order)
                content = served.get((FEED, uri), newest.content)
                events += [_event(replace(newest, content=newest.content and content), 0)]
            project.events.append(events)
            observe.observe(project, FEED, run_id="look", mode="hints")
            done = update(project, "clean", full=True, approve_deletions=True)
            while any(one.found for one in pending(project)):
                done = update(project, "clean", full=True, approve_deletions=True)
            assert done.candidate.digest == state["digest"], "as a clean full build"
        finally:
            for uri, content in kept.items():
                self._clock += 1
                (self._bench.files / uri).write_bytes(content)
                os.utime(self._bench.files / uri, (_LONG_AGO + self._clock, _LONG_AGO + self._clock))
                self.unhinted.add(uri)


def _hash(content: bytes) -> str:
    from pipelines.identity import content_hash

    return content_hash(content)


def _event(one: Announced, delivery: int) -> Event:
    return Event(
        FEED,
        one.uri,
        "delete" if one.content is None else "upsert",
        f"webhook:{one.uri}:{one.version}:{delivery}",
        version=one.version,
        content=one.content,
        size_bytes=None if one.content is None else len(one.content),
        readers=one.readers,
    )


def _identity(one: Announced) -> str:
    return _event(one, 0).identity(None if one.content is None else _hash(one.content))


def _difference(held: dict[str, str], wanted: dict[str, str], rows: list[dict[str, Any]]) -> str:
    texts = {row["chunk_id"]: (row["source"], row["uri"], row["text"], row["acl_id"]) for row in rows}
    surplus = [texts.get(key) for key in held if held[key] != wanted.get(key)]
    missing = len(wanted.keys() - held.keys())
    return f"the index is not what there is: surplus or other rows {surplus}, missing {missing}"


# --- what all examples of a process share ---


def _vectors(_config: Any) -> Any:
    """In place of the encoder: vectors of unit length that depend on nothing but the text's hash."""

    def stage(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = []
            for key in batch["text_hash"].to_pylist():
                values = np.frombuffer(bytes.fromhex(key), np.uint8).astype(np.float32) + 1
                rows.append(values / np.linalg.norm(values))
            yield pa.RecordBatch.from_arrays(
                [
                    batch["text_hash"],
                    pa.array([_MODEL["fp"]] * batch.num_rows, pa.string()),
                    pa.array(rows, pa.list_(pa.float32())),
                    pa.nulls(batch.num_rows, pa.string()),
                ],
                schema=OUTPUT,
            )

    return stage


_MODEL = {"fp": ""}


@contextmanager
def bench_in(folder: Path, model: Path) -> Iterator[tuple[Bench, Trap]]:
    """The shared parts, with everything in place that makes an example cheap."""
    trap = Trap()
    with ExitStack() as stack:
        from pipelines.parsing import stage as parsing

        stack.enter_context(patch.object(parsing, "Pool", parsing.Pool))
        parse_here()
        from pipelines.update.deriving import embeddings

        stack.enter_context(patch.object(embeddings, "encode_stage", _vectors))
        plain = KINDS["filesystem"]

        def scan(path: bytes) -> Any:
            name = os.fsdecode(path)
            if any(name.rstrip("/").endswith("/files" + ("/" + one if one else "")) for one in bench.unlistable):
                raise PermissionError(13, "as the example asks", name)
            return os.scandir(path)

        kind = replace(plain, open=lambda section, _around: Folder(section, scan=scan))
        stack.enter_context(patch.dict(KINDS, {"filesystem": kind, "feed": Kind(Feed, EventSource)}))
        look = Look.listing

        def listing(self: Look) -> Listing:
            found = look(self)
            meanwhile, bench.meanwhile = bench.meanwhile, None
            if meanwhile is not None and self.section.name == FEED:
                meanwhile()
            return found

        stack.enter_context(patch.object(Look, "listing", listing))
        stack.enter_context(trapped(trap))
        stack.enter_context(reading_each_version_once())
        bench = Bench(folder, model)
        _MODEL["fp"] = bench.oracle.recipe.model_fp
        yield bench, trap


def seeded(seed: int) -> random.Random:
    """For choices that hypothesis does not make."""
    return random.Random(seed)
