"""What is shown at any time: the live snapshot, as it was when it was new, to those whom it and today's rules allow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import Any

from pipelines.index.protocol import Index
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from pipelines.retrieval.search import Mode
from tests.integration._truth_bench import ALIAS, TENANTS, Bench
from tests.integration._truth_model import Access, Key, Model

PEOPLE: tuple[tuple[str, ...], ...] = (
    ("group:staff",),
    ("group:hr",),
    ("user:ada", "group:staff"),
    ("role:admin",),
    ("user:eve",),
)
MODES: tuple[Mode, ...] = ("hybrid", "dense", "bm25")
_QUESTION = "one, two or three?"  # every text has one of these words
_MANY = 100


@dataclass(frozen=True, slots=True)
class Held:
    """What one snapshot held when it was seen first. `before`: what was live until then."""

    hashes: dict[str, str]  # by chunk_id
    rows: dict[str, tuple[Key, Access]]  # by chunk_id
    manifest_version: int
    before: str | None


class Shown:
    """Looks at the live snapshot after every step, and asks it questions."""

    def __init__(self, bench: Bench, model: Model) -> None:
        self._bench, self._model = bench, model
        self.snapshots: dict[str, Held] = {}  # that were ever live
        self.live: str | None = None
        self._modes = cycle(MODES)
        self.questions = 0

    def open(self, project: Project, index: Index) -> None:
        """A process begins: one that goes on asking while others write."""
        self._index, self._asker = index, Asker(project)

    def in_order(self) -> list[str]:
        """Snapshots that were ever live, oldest first."""
        return sorted(self.snapshots)

    def live_now(self) -> str | None:
        """What the alias says."""
        state = self._state()
        return None if state is None else str(state["snapshot_id"])

    def before(self, snapshot: str) -> str | None:
        """What was live before it; of one that a rollback built again, before what it brought back."""
        held = self.snapshots[snapshot]
        same = [
            one
            for one in self.in_order()
            if (self.snapshots[one].hashes, self.snapshots[one].manifest_version)
            == (held.hashes, held.manifest_version)
        ]
        return self.snapshots[same[0]].before

    def brought_back(self, snapshot: str, target: str) -> None:
        """That snapshot is live because somebody asked for `target`: it must hold the same."""
        held = self.snapshots.get(snapshot, self.snapshots[target])
        assert held.hashes == self.snapshots[target].hashes, f"{snapshot} is not what {target} was"
        self.snapshots[snapshot] = held
        self.live = snapshot

    def check(self, *, every_mode: bool = False) -> None:
        """What is live holds what it may hold, and people are shown of it exactly what they may be shown."""
        state = self._state()
        if state is None:
            return
        live = str(state["snapshot_id"])
        if live not in self.snapshots:
            self.snapshots[live] = self._new(state)
        held = self.snapshots[live]
        now_held = self._index.row_hashes(self._collection())
        assert now_held == held.hashes, f"snapshot {live} is not what it was: {_named(now_held, held)}"
        self.live = live
        now = {key: self._model.access_now(key) for key, _ in held.rows.values()}
        for tenant in TENANTS:
            for people in PEOPLE:
                who = {(tenant, one) for one in people}
                expected = {one for one, (key, then) in held.rows.items() if who & then and who & now[key]}
                for mode in MODES if every_mode else (next(self._modes),):
                    self._ask(tenant, people, mode, expected)

    def _ask(self, tenant: str, people: tuple[str, ...], mode: Mode, expected: set[str]) -> None:
        self.questions += 1
        answer = self._asker.ask([_QUESTION], people, tenant=tenant, k=_MANY, mode=mode)
        hits = answer.hits[0]
        seen = {hit.chunk_id for hit in hits}
        told = [(hit.source, hit.uri, hit.text) for hit in hits if hit.chunk_id not in expected]
        assert not told, f"{people} of {tenant} are shown {told} ({mode})"
        assert seen == expected, f"{people} of {tenant} are not shown {expected - seen} ({mode})"
        assert len(seen) == len(hits), f"a row is shown twice ({mode})"

    def _new(self, state: dict[str, Any]) -> Held:
        """The first look at a snapshot: it holds what was so since all was at rest, with readers of then or since."""
        rows: dict[str, tuple[Key, Access]] = {}
        hashes: dict[str, str] = {}
        for row in self._index.rows(self._collection()).to_pylist():
            key = (row["source"], row["uri"])
            who = self._bench.sets[row["acl_id"]]
            assert {tenant for tenant, _ in who} <= {row["tenant"]}, f"{key}: readers of another tenant than its own"
            allowed: set[tuple[str, str]] = set()
            known = False
            for content in self._model.contents(key):
                if self._bench.oracle.readable(key[1], content) and row["chunk_id"] in self._bench.oracle.rows(
                    *key, content, row["tenant"], ()
                ):
                    known = True
                    allowed |= self._model.may_hold(key, content)
            assert known, f"{key} holds a text that it did not have: {row['text']!r}"
            assert who <= allowed, f"{key} holds {row['text']!r} for {who - allowed}"
            rows[row["chunk_id"]] = key, who
            hashes[row["chunk_id"]] = row["row_hash"]
        return Held(hashes, rows, state["manifest_version"], self.live)

    def _collection(self) -> str:
        live = self._index.alias_target(ALIAS)
        assert live is not None
        return live

    def _state(self) -> dict[str, Any] | None:
        live = self._index.alias_target(ALIAS)
        if live is None:
            return None
        state = self._index.read_state(live)
        assert state is not None, "what is live does not say what it is"
        return dict(state)


def _named(found: dict[str, str], held: Held) -> str:
    differing = {one for one in found.keys() | held.hashes.keys() if found.get(one) != held.hashes.get(one)}
    return f"{sorted(str(held.rows.get(one, one)) for one in differing)}"
