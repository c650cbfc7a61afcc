"""The moves of the game: what happens to the sources, what the library does about it, and rest in between.

How many examples ran, and how often each thing happened, is counted in `Tally`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.integration._truth_bench import BOARD, HR, NOBODY, STAFF, TENANTS, Bench, Setting
from tests.integration._truth_model import FEED, FILES, Announced
from tests.integration._truth_trap import Trap
from tests.integration._truth_world import FILE_NAMES, World

FEED_NAMES = ("a.md", "secret/l.md")
HINTS = (*FILE_NAMES, "hr", "", "never.md")
CONTENTS = (
    b"# A\n\nOne.\n",
    b"# A\n\nOne.\n\n# B\n\nTwo.\n",
    b"# B\n\nTwo.\n",
    b"Three.\n\nThree.\n",
    b"",
    b"%PDF-1.7 broken",
    b"%PDF-1.7 broken otherwise",
)
STEPS = ("changes", "parse", "manifest", "chunks", "encode", "candidate", "gates", "promote")
RESTS = ("with scan", "without scan", "thoroughly")
CLEAN_EVERY = 25  # rests, about, between two clean builds

files = st.sampled_from(FILE_NAMES)
contents = st.sampled_from(CONTENTS)
readers = st.sampled_from((None, STAFF, HR, BOARD, NOBODY))
some_letters = st.lists(st.integers(0, 5), min_size=1, max_size=4)
writes = st.tuples(st.integers(1, 14), st.sampled_from(("before", "half-way", "after")))
settings_of_examples = st.builds(
    Setting,
    batch=st.sampled_from((20_000,) * 6 + (1, 3)),
    guarded=st.sampled_from((False, False, True)),
    slots=st.sampled_from((2, 2, 3)),
    kept=st.sampled_from((1, 2, 3)),
    index_may_die=st.sampled_from((False,) * 7 + (True,)),  # it takes 2 s to start again
)


@dataclass
class Tally:
    """What really ran."""

    examples: int = 0
    rests: int = 0
    clean_builds: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    questions: int = 0


class Play(RuleBasedStateMachine):
    """One example. `bench`, `trap` and `tally` are set on a subclass by `machine`."""

    bench: Bench
    trap: Trap
    tally: Tally
    world: World

    @initialize(setting=settings_of_examples, texts=st.lists(contents, max_size=4), told=st.booleans())
    def begin(self, setting: Setting, texts: list[bytes], told: bool) -> None:
        self.world = World(self.bench, self.trap, setting)
        for uri, content in zip(FILE_NAMES, texts, strict=False):
            self.world.write(uri, content)
        if told:
            self.world.announce("a.md", 1, CONTENTS[0], HR)

    # --- the folder ---

    @rule(uri=files, content=contents)
    def write(self, uri: str, content: bytes) -> None:
        self._count("write")
        self.world.write(uri, content)

    @rule(uri=files, to=files, how=st.sampled_from(("remove", "rename", "copy", "touch")))
    def move(self, uri: str, to: str, how: str) -> None:
        self._count(how)
        if how == "remove":
            self.world.remove(uri)
        elif how == "rename":
            self.world.rename(uri, to)
        elif how == "copy":
            self.world.copy(uri, to)
        else:
            self.world.touch(uri)

    @rule(uri=files)
    def write_unseen(self, uri: str) -> None:
        self._count("write unseen")
        self.world.write_unseen(uri, CONTENTS)

    @rule(uri=st.sampled_from(HINTS), subtree=st.booleans(), times=st.integers(1, 2))
    def hint(self, uri: str, subtree: bool, times: int) -> None:
        self._count("hint")
        self.world.hint(uri, subtree=subtree or uri in ("", "hr"), times=times)

    @rule(folder=st.sampled_from(("", "hr", "hr/deep", None)))
    def break_off(self, folder: str | None) -> None:
        """Listings of a folder fail from now on, or none does any more."""
        self._count("break" if folder is not None else "mend")
        self.world.break_off(folder)

    # --- the feed ---

    @rule(uri=st.sampled_from(FEED_NAMES), version=st.integers(1, 5), content=st.none() | contents, who=readers)
    def announce(self, uri: str, version: int, content: bytes | None, who: Any) -> None:
        self._count("announce")
        self.world.announce(uri, version, content, who)

    @rule(order=st.lists(st.integers(0, 5), min_size=1, max_size=4), again=st.booleans())
    def arrive(self, order: list[int], again: bool) -> None:
        self._count("arrive twice" if again else "arrive")
        self.world.arrive(order, again=again)

    @rule(order=st.lists(st.integers(0, 5), min_size=1, max_size=3))
    def arrive_during_a_look(self, order: list[int]) -> None:
        self._count("arrive during a look")
        self.world.arrive_during_a_look(order)

    @rule(uri=st.sampled_from(FEED_NAMES), version=st.integers(1, 6), content=st.none() | contents, who=readers)
    def reject(self, uri: str, version: int, content: bytes | None, who: Any) -> None:
        """A message that was sent to a release which did not understand it; this one does."""
        self._count("reject")
        self.world.reject(Announced(uri, version, content, who))

    @rule()
    def reject_nonsense(self) -> None:
        self._count("reject nonsense")
        self.world.reject(None)

    # --- the configuration ---

    @rule(on_files=st.integers(0, 3), on_feed=st.integers(0, 2))
    def rules(self, on_files: int, on_feed: int) -> None:
        self._count("rules")
        self.world.rules(on_files, on_feed)

    @rule(source=st.sampled_from((FILES, FEED)), tenant=st.sampled_from(TENANTS))
    def tenant(self, source: str, tenant: str) -> None:
        self._count("tenant")
        self.world.tenant(source, tenant)

    # --- the library ---

    @rule(source=st.sampled_from((FILES, FEED)), mode=st.sampled_from(("listing", "hints", "poll")))
    def observe(self, source: str, mode: str) -> None:
        self._count(f"observe {mode}")
        self.world.observe(source, mode)

    @rule(source=st.sampled_from((FILES, FEED)), mode=st.sampled_from(("listing", "hints")), write=writes)
    def observe_and_die(self, source: str, mode: str, write: Any) -> None:
        self._died(lambda: self.world.observe(source, mode, write=write))

    @rule(scan=st.booleans())
    def update(self, scan: bool) -> None:
        self._count(f"update {'with' if scan else 'without'} scan")
        self.world.update(scan=scan)

    @rule(scan=st.booleans(), write=writes)
    def update_and_die_at_a_write(self, scan: bool, write: Any) -> None:
        self._died(lambda: self.world.update(scan=scan, write=write))

    @rule(scan=st.booleans(), step=st.sampled_from(STEPS))
    def update_and_die_before_a_step(self, scan: bool, step: str) -> None:
        self.tally.crashes[f"step {step}"] += 1
        self.world.update(scan=scan, step=step)

    @rule(mode=st.sampled_from(("listing", "hints")))
    def observe_thoroughly(self, mode: str) -> None:
        self._count("observe thoroughly")
        self.world.observe(FILES, mode, thorough=True)

    @rule(which=st.none() | st.integers(0, 5))
    def roll_back(self, which: int | None) -> None:
        self._count("rollback" if which is None else "rollback to a named one")
        self.world.rollback(which)

    @rule(which=st.none() | st.integers(0, 5), write=writes)
    def roll_back_and_die(self, which: int | None, write: Any) -> None:
        self._died(lambda: self.world.rollback(which, write=write))

    @rule()
    def maintain(self) -> None:
        self._count("maintenance")
        self.world.maintain()

    @rule(write=writes)
    def maintain_and_die(self, write: Any) -> None:
        self._died(lambda: self.world.maintain(write=write))

    @rule(chosen=some_letters)
    def replay(self, chosen: list[int]) -> None:
        self._count("replay")
        self.world.replay(chosen)

    @rule(chosen=some_letters, write=writes)
    def replay_and_die(self, chosen: list[int], write: Any) -> None:
        self._died(lambda: self.world.replay(chosen, write=write))

    @rule(chosen=some_letters)
    def discard(self, chosen: list[int]) -> None:
        self._count("discard")
        self.world.discard(chosen)

    @precondition(lambda self: self.bench.is_real and self.world.setting.index_may_die)
    @rule()
    def kill_index(self) -> None:
        self._count("kill")
        self.world.kill_index()

    @rule(how=st.sampled_from(RESTS))
    def rest(self, how: str) -> None:
        self.world.settle(scan=how == "with scan", thorough=how == "thoroughly")
        self.tally.rests += 1
        self._count(f"rest {how}")
        if self.tally.rests % CLEAN_EVERY == 0:
            self.world.check_clean_build()
            self.tally.clean_builds += 1

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.rest(RESTS[self.tally.examples % len(RESTS)])
            self.tally.examples += 1
            self.tally.questions += self.world.shown.questions

    def _count(self, what: str) -> None:
        self.tally.happened[what] += 1

    def _died(self, act: Any) -> None:
        before = len(self.trap.passed)
        act()
        for point in self.trap.passed[before:]:
            self.tally.crashes[point] += 1


def machine(bench: Bench, trap: Trap, tally: Tally) -> type[Play]:
    """The machine on one bench."""
    attributes = {"bench": bench, "trap": trap, "tally": tally}
    return type("PlayHere", (Play,), attributes)
