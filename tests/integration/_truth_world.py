"""One installation to play with: a folder, a feed of announced versions, tables, and an index."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.errors import MassDeletionRefused, SnapshotNotFound, SourceError
from pipelines.identity import content_hash
from pipelines.index.slots import slot_names
from pipelines.lake.events import Event
from pipelines.update.applying import approvals
from pipelines.update.applying.pending import pending
from pipelines.update.looking import observe, progress
from pipelines.update.snapshot.rollback import rollback
from pipelines.update.upkeep.maintenance import maintain
from tests.fakes.index import FakeIndex
from tests.integration._truth_bench import ALIAS, FEED_RULES, FILE_RULES, TENANTS, Bench, Setting
from tests.integration._truth_letters import Letters
from tests.integration._truth_model import FEED, FILES, Announced, File, Model, Readers
from tests.integration._truth_rest import Rest
from tests.integration._truth_shown import Shown
from tests.integration._truth_trap import Crash, How, Trap
from tests.updating import update

FILE_NAMES = ("a.md", "b.md", "hr/c.md", "hr/deep/d.md")

_LONG_AGO = 1_000_000_000  # modification times lie there, each another one, so that no file counts as just written
_HOURS = 7_200.0

Write = tuple[int, How]
"""Which of the coming writes an act dies at, and how."""


class World:
    """One example: the model, the installation, and what the library does to it."""

    def __init__(self, bench: Bench, trap: Trap, setting: Setting) -> None:
        self._bench, self._trap, self.setting = bench, trap, setting
        self.model = Model(FILE_RULES[0], FEED_RULES[0], dict(zip((FILES, FEED), TENANTS, strict=True)))
        self.letters = Letters(self.model)
        self.resting = Rest(bench, self.model, self.letters)
        self.shown = Shown(bench, self.model)
        self._home = bench.folder / "home"
        bench.clear(self._home, bench.files)
        bench.files.mkdir()
        self.index = bench.empty_index()
        self.undelivered: list[Announced] = []
        self.unhinted: set[str] = set()
        self.kept: set[str] = set()  # snapshots that can be brought back, whatever happens
        self.break_off(None)
        self._clock = 0
        self.back = False  # an earlier snapshot was brought back since
        self.open()

    def open(self) -> None:
        """A process begins."""
        if self._bench.is_real:
            self.index = self._bench.index_again()
        model = self.model
        config = self._bench.config(self.setting, model.file_rules, model.feed_rules, model.tenants)
        self.project = self._bench.project(config, self._home, self.index)
        self.shown.open(self._bench.project(config, self._home, self.index), self.index)

    # --- what happens outside ---

    def write(self, uri: str, content: bytes) -> None:
        """Create or edit a file."""
        self._clock += 1
        self._put(uri, File(content, self._clock))
        self._touched(uri)

    def write_unseen(self, uri: str, contents: Sequence[bytes]) -> None:
        """Another content of the same size under the same time, which nobody is told about."""
        file = self.model.files.get(uri)
        if file is None:
            return
        twins = [one for one in contents if len(one) == len(file.content) and one != file.content]
        if twins:
            self._put(uri, replace(file, content=twins[0]))
            self.model.note()

    def _put(self, uri: str, file: File) -> None:
        path = self._bench.files / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        os.utime(path, (_LONG_AGO + file.time, _LONG_AGO + file.time))
        self.model.put(uri, file)

    def touch(self, uri: str) -> None:
        """The same file under another time."""
        if uri in self.model.files:
            self.write(uri, self.model.files[uri].content)

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
            self.model.put(to, self.model.files.pop(uri))
            self._touched(uri, to)

    def copy(self, uri: str, to: str) -> None:
        """A second file of the same content."""
        if uri in self.model.files and uri != to:
            self.write(to, self.model.files[uri].content)

    def _touched(self, *uris: str) -> None:
        self.unhinted |= set(uris)
        self.model.note()

    def rules(self, files: int, feed: int) -> None:
        """Other access rules, in the configuration."""
        self.model.file_rules, self.model.feed_rules = FILE_RULES[files], FEED_RULES[feed]
        self._configured()

    def tenant(self, source: str, tenant: str) -> None:
        """A source is another tenant's, in the configuration."""
        self.model.tenants = {**self.model.tenants, source: tenant}
        self._configured()

    def _configured(self) -> None:
        self.model.note()
        self.open()
        self.shown.check()

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
        self.shown.check()

    def hint(self, uri: str, *, subtree: bool = False, times: int = 1) -> None:
        """A word about the folder: late, early, twice or for nothing."""
        self._clock += 1
        self.project.events.append(
            [Event(FILES, uri, "changed", f"watch:{self._clock}:{n}", subtree=subtree) for n in range(times)]
        )
        self.unhinted = {one for one in self.unhinted if one != uri and not (subtree and one.startswith(uri))}

    def reject(self, message: Announced | None) -> None:
        """A message that nobody understands, or only somebody who replays it."""
        self.letters.reject(self.project, message)

    def break_off(self, folder: str | None) -> None:
        """Reading that folder of the source fails from now on ("": the whole source); None: nothing fails any more."""
        self._bench.unlistable = set() if folder is None else {folder}

    def kill_index(self) -> None:
        """The index process dies; the next command starts it again."""
        self._bench.kill_index()
        self.open()
        self.shown.check()

    # --- what the library does ---

    def update(self, *, scan: bool, step: str | None = None, write: Write | None = None) -> None:
        """An update, perhaps one that dies at the beginning of a step or at a write; what it refuses is refused."""

        def before(name: str) -> None:
            if name == step:
                raise Crash(name)

        self._act(lambda: update(self.project, scan=scan, before=before), write)

    def observe(self, source: str, mode: Any, *, thorough: bool = False, write: Write | None = None) -> None:
        """A look at one source, perhaps one that dies."""
        whole = source == FILES and mode == "listing" and not self._bench.unlistable
        went_well = self._act(
            lambda: observe.observe(self.project, source, run_id="look", mode=mode, thorough=thorough), write
        )
        if thorough and whole and went_well:
            self.model.read_thoroughly()

    def arrive_during_a_look(self, chosen: Sequence[int]) -> None:
        """Some of what was produced arrives after a look has listed the feed, and before it reads the contents."""
        self._bench.meanwhile = lambda: self.arrive(chosen)
        self.observe(FEED, "hints")
        self._bench.meanwhile = None

    def replay(self, chosen: Sequence[int], *, write: Write | None = None) -> None:
        """Some open letters are tried again; when that dies, once more."""
        rows = self._letters(chosen)

        def again() -> None:
            self.letters.replay(self.project, rows)

        self._trapped(again, write)
        again()
        self.shown.check()

    def discard(self, chosen: Sequence[int]) -> None:
        """Some open letters are laid aside."""
        rows = self._letters(chosen)
        self._act(lambda: self.letters.discard(self.project, rows))

    def _letters(self, chosen: Sequence[int]) -> list[dict[str, Any]]:
        rows = self.letters.open(self.project)
        return [rows[n] for n in sorted({n % len(rows) for n in chosen})] if rows else []

    def rollback(self, which: int | None, *, write: Write | None = None) -> None:
        """Back to the snapshot before the live one, or to a named one: to just that, or refused because it is gone."""
        live, known = self.shown.live_now(), self.shown.in_order()
        named = known[which % len(known)] if which is not None and known else None
        target = named if which is not None else live and self.shown.before(live)
        refused: list[SnapshotNotFound] = []

        def go_back() -> None:
            try:
                with self.project.writer("back", "rollback"):
                    rollback(self.project, named, run_id="back")
            except SnapshotNotFound as error:
                refused.append(error)

        went_well = self._trapped(go_back, write)
        now = self.shown.live_now()
        if refused:
            assert target is None or target == live or target not in self.kept, f"{target} was promised: {refused[0]}"
            assert now == live, f"a rollback that was refused changed what is live to {now}"
        elif now != live or went_well:
            assert target is not None, f"there was nothing to go back to, and {now} is live"
            assert now is not None
            assert target != live or not went_well, f"{live} was live already"
            self.back = True
            self.shown.brought_back(now, target)
            self.kept.add(now)
        self.shown.check()

    def maintain(self, *, write: Write | None = None) -> None:
        """Hours later, maintenance, perhaps one that dies."""
        for folder in (self.project.home.lake, self.project.home.blobs):
            self._hours_later(folder)
        # What it may remove is removed also where it dies at the end: from now on only this is promised.
        held = {self._held(name) for name in slot_names(ALIAS, self.setting.slots)} | {self.shown.live_now()}
        newest = sorted(self.kept)[-self.setting.kept :]
        self.kept = {one for one in self.kept if one in newest or one in held}

        def upkeep() -> None:
            with self.project.writer("upkeep", "maintenance"):
                maintain(self.project, run_id="upkeep")

        self._act(upkeep, write)

    def _held(self, collection: str) -> str | None:
        state = self.index.read_state(collection) if self.index.exists(collection) else None
        return None if state is None or state.get("building") else state["snapshot_id"]

    @staticmethod
    def _hours_later(folder: Path) -> None:
        then = time.time() - _HOURS
        for path in folder.rglob("*"):
            if path.is_file() and "_delta_log" not in path.parts:
                os.utime(path, (then, then))

    def _act(self, act: Callable[[], object], write: Write | None = None) -> bool:
        went_well = self._trapped(act, write)
        self._keep()
        self.shown.check()
        return went_well

    def _keep(self) -> None:
        """What is live can be brought back later."""
        live = self.shown.live_now()
        if live is not None and live not in self.shown.snapshots:
            self.kept.add(live)

    def _trapped(self, act: Callable[[], object], write: Write | None) -> bool:
        """Whether it neither died nor found a source that cannot be read."""
        # A look at a folder that cannot be read uses up the hints on it: it takes another one, or a listing.
        self.unhinted |= {u for u in FILE_NAMES for f in self._bench.unlistable if f and u.startswith(f)}
        if write is not None:
            self._trap.arm(*write)
        try:
            act()
        except Crash:
            self.open()
            return False
        except SourceError:
            return False
        finally:
            self._trap.disarm()
        return True

    # --- coming to rest ---

    def settle(self, *, scan: bool, thorough: bool = False) -> None:
        """Everything arrives and is applied; by listings, or by announcements alone."""
        self.break_off(None)
        self.arrive(range(len(self.undelivered)))
        for source in (FILES, FEED):
            progress.change(self.project.home, source, retry_at=None)
        if thorough:
            self.observe(FILES, "listing", thorough=True)
        elif not scan:
            for uri in sorted(self.unhinted):
                self.hint(uri)
            observe.observe(self.project, FILES, run_id="look", mode="hints")
        observe.observe(self.project, FEED, run_id="look", mode="hints")
        listed = scan
        for _ in range(60):
            with suppress(MassDeletionRefused):
                done = update(self.project, "settle", scan=scan)
                scan = False
                self._keep()
                self.shown.check()
                if not any(one.announced or one.found for one in pending(self.project)):
                    break
            for request in approvals.requests(self.project):
                if request.approved_by is None:
                    approvals.approve(self.project, request.source, by="operator", run_id="settle")
        else:
            raise AssertionError(f"still pending after sixty updates: {pending(self.project)}")
        if self.back and not done.candidate.built:
            update(self.project, "forward", scan=False, full=True)
            self._keep()
        self.back = False
        self.unhinted.clear()
        self.shown.check(every_mode=True)
        self.resting.check(self.project, self.index, listed=listed)

    def check_clean_build(self) -> None:
        """A full build of what there is in a fresh home has the same digest."""
        served, taken = self.resting.served, self.resting.taken
        home = self._bench.folder / "clean"
        self._bench.clear(home)
        kept = dict(self.model.files)
        try:
            for uri in kept:  # what cannot be read is there as it is shown
                key = (FILES, uri)
                (self._bench.files / uri).write_bytes(served.get(key, taken[key]))
                os.utime(self._bench.files / uri, (_LONG_AGO, _LONG_AGO))
            project = self._bench.project(self.project.config, home, FakeIndex())
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
            assert done.candidate.digest == self.resting.digest, "as a clean full build"
        finally:
            for uri, file in kept.items():
                self.write(uri, file.content)


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
    return _event(one, 0).identity(None if one.content is None else content_hash(one.content))
