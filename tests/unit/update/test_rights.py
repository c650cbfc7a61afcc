"""Rights are of now, contents of the snapshot: histories of rules, edits, updates, rollbacks against a plain model."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.errors import AccessError, ConfigError, IndexMismatch
from pipelines.home import Home
from pipelines.index.protocol import Ranking
from pipelines.lake import snapshots
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from pipelines.update.looking.observe import observe
from pipelines.update.rights import Rights
from pipelines.update.snapshot.rollback import rollback
from tests.fakes.index import FakeIndex
from tests.integration._actions import _ParsingHere
from tests.updating import update

Key = tuple[str, str]  # source, uri
Told = tuple[str, frozenset[str]]  # tenant, readers

ADMIN = "role:admin"
PEOPLE = ("group:staff", "group:hr", "user:ada", "group:R&D, Berlin", ADMIN)
TENANTS = ("default", "beta")
NAMES = ("a.md", "b.md", "hr/c.md", "hr/deep/d.md")
ROWS = ("r1", "r2", "r3", "r4")
PATTERNS = ("a.md", "hr/**", "hr/deep/**", "**", "r1", "r2")


def matches(pattern: str, uri: str) -> bool:
    return pattern == "**" or uri == pattern or (pattern.endswith("/**") and uri.startswith(pattern[:-2]))


@dataclass
class Source:
    """What the configuration says of one source, and what is known of its documents."""

    tenant: str
    rules: list[dict[str, Any]]
    there: set[str] = field(default_factory=set)  # by the last look
    reported: dict[str, Sequence[str] | None] = field(default_factory=dict)  # by the last look

    def today(self, uri: str) -> Told:
        for rule in self.rules:
            if matches(rule["match"], uri):
                return self.tenant, frozenset(rule["readers"])
        said = self.reported.get(uri) if uri in self.there else None
        return self.tenant, frozenset([ADMIN] if said is None else said)


class World:
    """An installation with two folders, a table whose rows name their readers, and a model of who may see what."""

    def __init__(self, folder: Path, model: Path, chance: random.Random) -> None:
        self.folder, self.model, self.chance = folder, model, chance
        self.sources = {
            "docs": Source("default", [{"match": "**", "readers": ["group:staff"]}]),
            "other": Source("beta", [{"match": "**", "readers": ["group:staff"]}]),
            "rows": Source("default", []),
        }
        self.index = FakeIndex()
        self.clock = 0
        self.shown: dict[str, dict[Key, Told]] = {}  # by digest, what was so when a snapshot was built
        for name in ("docs", "other"):
            for uri in NAMES:
                self.write(name, uri)
        with sqlite3.connect(folder / "rows.db") as connection:
            connection.execute("CREATE TABLE rows (id TEXT PRIMARY KEY, text TEXT, at TEXT, who TEXT)")
        for uri in ROWS:
            self.put(uri, ["group:hr"])
        self.configure()
        self.asker = Asker(self.project())  # lives on, as in a service
        self.rights = self.asker._rights

    def project(self) -> Project:
        path = self.folder / "lockstep.yaml"
        opened = Project.open(path, Home(self.folder / "home"))
        return Project(opened.config, opened.home, index=self.index, config_path=path)

    def configure(self) -> None:
        tables = {"key": "id", "text": "text", "updated_at": "at", "readers": "who"}
        kinds: dict[str, dict[str, Any]] = {
            "docs": {"kind": "filesystem", "path": "docs"},
            "other": {"kind": "filesystem", "path": "other"},
            "rows": {"kind": "database", "url": "sqlite:///rows.db", "table": "rows", "columns": tables},
        }
        sources = [
            {"name": name, "tenant": one.tenant, "access": one.rules, **kinds[name]}
            for name, one in self.sources.items()
        ]
        told = {
            "index": "test",
            "encoder": {"model": str(self.model), "dtype": "float32"},
            "guard": {"max_deleted_share": 1.0},
            "sources": sources,
        }
        new = self.folder / "lockstep.yaml.new"
        new.write_text(yaml.safe_dump(told), encoding="utf-8")
        new.replace(self.folder / "lockstep.yaml")

    # --- what happens ---

    def write(self, source: str, uri: str) -> None:
        self.clock += 1
        path = self.folder / source / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {source} {uri}\n\nText {'x' * self.clock} of the handbook.\n", encoding="utf-8")

    def remove(self, source: str, uri: str) -> None:
        (self.folder / source / uri).unlink(missing_ok=True)

    def put(self, uri: str, readers: Sequence[str] | None) -> None:
        self.clock += 1
        at = f"2020-01-01 {self.clock // 3600:02}:{self.clock // 60 % 60:02}:{self.clock % 60:02}"
        who = None if readers is None else json.dumps(list(readers))
        with sqlite3.connect(self.folder / "rows.db") as connection:
            connection.execute(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", (uri, f"Row {uri} of the handbook.", at, who)
            )

    def drop(self, uri: str) -> None:
        with sqlite3.connect(self.folder / "rows.db") as connection:
            connection.execute("DELETE FROM rows WHERE id = ?", (uri,))

    def looked(self) -> None:
        """A look at everything has made known what is there."""
        for name in ("docs", "other"):
            root = self.folder / name
            self.sources[name].there = {str(p.relative_to(root)) for p in root.rglob("*.md")}
        with sqlite3.connect(self.folder / "rows.db") as connection:
            found = dict(connection.execute("SELECT id, who FROM rows").fetchall())
        rows = self.sources["rows"]
        rows.there = set(found)
        rows.reported = {uri: None if who is None else json.loads(who) for uri, who in found.items()}

    def look(self) -> None:
        project = self.project()
        for name in self.sources:
            observe(project, name, run_id="look")
        self.looked()

    def update(self, run: str) -> None:
        project = self.project()
        done = update(project, run)
        self.looked()
        live = snapshots.find(snapshots.history(project.lake, "test"), done.promotion.snapshot_id)
        now = {(name, uri): one.today(uri) for name, one in self.sources.items() for uri in one.there}
        known = self.shown.setdefault(live.digest, now)
        if done.candidate.built:
            assert known == now

    def back(self) -> None:
        project = self.project()
        retired = [s for s in snapshots.history(project.lake, "test") if s.status == "retired"]
        if retired:
            with project.writer("back", "rollback"):
                rollback(project, self.chance.choice(retired).snapshot_id, run_id="back")

    # --- who sees what ---

    def check(self) -> int:
        """Everything that anybody sees, held against the model; returns how many answers that were."""
        collection = self.index.alias_target("test")
        assert collection is not None
        state = self.index.read_state(collection)
        assert state is not None
        then, rows = self.shown[state["digest"]], self.index._rows(collection)
        assert {(row["source"], row["uri"]) for row in rows} == set(then)
        checks = 0
        callers = [[], *([one] for one in PEOPLE), *map(list, combinations(PEOPLE, 2)), list(PEOPLE)]
        for tenant in (*TENANTS, "gamma"):
            for caller in callers:
                visible = self.rights.visible(state, caller, tenant)
                for row in rows:
                    key = (row["source"], row["uri"])
                    today = self.sources[key[0]].today(key[1])
                    may = all(of == tenant and not readers.isdisjoint(caller) for of, readers in (then[key], today))
                    assert visible.shows(row) == may, (key, caller, tenant, then[key], today)
                    checks += 1
        return checks

    def ask(self, mode: Any) -> None:
        """Questions by way of everything that a person uses: exactly the rows that the model says are found."""
        collection = self.index.alias_target("test")
        assert collection is not None
        state = self.index.read_state(collection)
        assert state is not None
        then = self.shown[state["digest"]]
        for tenant in TENANTS:
            for caller in ([PEOPLE[0]], [PEOPLE[1]], list(PEOPLE)):
                may = {
                    key
                    for key, was in then.items()
                    for now in [self.sources[key[0]].today(key[1])]
                    if was[0] == now[0] == tenant and was[1] & set(caller) and now[1] & set(caller)
                }
                answer = self.asker.ask(["the handbook"], caller, tenant=tenant, k=100, mode=mode)
                assert {(hit.source, hit.uri) for hit in answer.hits[0]} == may


def test_whatever_happens_nobody_sees_what_the_snapshot_and_todays_rules_do_not_both_allow(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.parsing.stage.Pool", _ParsingHere)
    chance = random.Random(20_261_127)
    world = World(tmp_path, tiny_model, chance)
    world.update("first")
    checks = world.check()
    for step in range(120):
        act = chance.choice(("rules", "rules", "tenant", "edit", "remove", "row", "row", "look", "update", "back"))
        if act == "rules":
            source = world.sources[chance.choice(list(world.sources))]
            source.rules = [
                {"match": pattern, "readers": chance.sample(PEOPLE, chance.randint(0, 3))}
                for pattern in chance.sample(PATTERNS, chance.randint(0, 3))
            ]
            world.configure()
        elif act == "tenant":
            world.sources[chance.choice(list(world.sources))].tenant = chance.choice(TENANTS)
            world.configure()
        elif act == "edit":
            world.write(chance.choice(("docs", "other")), chance.choice(NAMES))
        elif act == "remove":
            world.remove(chance.choice(("docs", "other")), chance.choice(NAMES))
        elif act == "row" and chance.random() < 0.2:
            world.drop(chance.choice(ROWS))
        elif act == "row":
            world.put(chance.choice(ROWS), chance.choice([None, [], ["group:hr"], [PEOPLE[3], "user:ada"]]))
        elif act == "look":
            world.look()
        elif act == "update":
            world.update(f"run-{step}")
        else:
            world.back()
        checks += world.check()
        if step % 5 == 0:
            world.ask(("hybrid", "dense", "bm25")[step // 5 % 3])
    assert checks > 50_000


@pytest.fixture
def world(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("pipelines.parsing.stage.Pool", _ParsingHere)
    made = World(tmp_path, tiny_model, random.Random(1))
    made.update("first")
    return made


def seen(world: World, *caller: str, tenant: str = "default", mode: Any = "bm25") -> set[Key]:
    answer = world.asker.ask(["the handbook"], caller, tenant=tenant, k=100, mode=mode)
    return {(hit.source, hit.uri) for hit in answer.hits[0]}


def test_a_rollback_does_not_give_back_rights_that_were_taken_away(world: World) -> None:
    assert len(seen(world, "group:staff")) == 4
    world.sources["docs"].rules = [{"match": "**", "readers": ["group:hr"]}]
    world.configure()
    world.update("second")
    project = world.project()
    with project.writer("back", "rollback"):
        rollback(project, run_id="back")
    assert seen(world, "group:staff") == set()
    assert ("docs", "a.md") not in seen(world, "group:hr")  # its snapshot did not allow them yet


def test_a_rule_holds_at_the_next_question_without_any_update(world: World) -> None:
    world.sources["docs"].rules = [{"match": "hr/**", "readers": ["group:hr"]}, {"match": "**", "readers": PEOPLE[:1]}]
    world.configure()
    assert seen(world, "group:staff") == {("docs", "a.md"), ("docs", "b.md")}


def test_a_source_that_is_no_longer_configured_keeps_the_rules_that_were_applied_last(world: World) -> None:
    before = seen(world, "group:staff", tenant="beta")
    assert before
    told = yaml.safe_load((world.folder / "lockstep.yaml").read_text())
    told["sources"] = [one for one in told["sources"] if one["name"] != "other"]
    (world.folder / "lockstep.yaml").write_text(yaml.safe_dump(told))
    assert seen(world, "group:staff", tenant="beta") == before
    assert seen(world, "group:hr", "role:admin", tenant="beta") == set()


def test_while_the_configuration_is_wrong_nobody_is_shown_anything(world: World) -> None:
    (world.folder / "lockstep.yaml").write_text("index: test\nsources: [")
    with pytest.raises(ConfigError, match="YAML"):
        seen(world, "group:staff")
    world.configure()
    assert len(seen(world, "group:staff")) == 4


def test_what_a_source_reports_holds_when_it_was_heard_and_before_it_is_applied(world: World) -> None:
    assert ("rows", "r1") in seen(world, "group:hr")
    world.put("r1", ["user:ada"])
    assert ("rows", "r1") in seen(world, "group:hr")  # nobody has looked yet
    observe(world.project(), "rows", run_id="look")
    assert ("rows", "r1") not in seen(world, "group:hr")
    assert ("rows", "r1") not in seen(world, "user:ada")  # the snapshot's readers have to allow it, too


def test_many_withheld_documents_of_one_set_are_left_out_by_the_set_and_not_one_by_one(world: World) -> None:
    for number in range(1_100):
        path = world.folder / "docs" / f"many/{number}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"Page {number} of the handbook.")
    world.update("many")
    world.sources["docs"].rules = [{"match": "**", "readers": ["group:hr"]}]
    world.configure()
    collection = world.index.alias_target("test")
    assert collection is not None
    state = world.index.read_state(collection)
    assert state is not None
    visible = Rights(world.project()).visible(state, ["group:staff"], "default")
    assert (visible.acl_ids, visible.withheld) == ((), ())


def test_an_index_that_does_not_keep_to_its_filter_is_found_out(world: World) -> None:
    def everything(collection: str, vectors: Any, *, visible: Any, limit: int) -> list[Ranking]:
        keys = tuple(row["chunk_id"] for row in world.index._rows(collection))
        return [Ranking(keys, tuple(float(-n) for n in range(len(keys))))]

    world.index.search_sparse = everything  # type: ignore[method-assign]
    with pytest.raises(IndexMismatch, match="may not read it"):
        seen(world, "group:staff")


def test_a_malformed_tenant_is_refused(world: World) -> None:
    with pytest.raises(AccessError, match="no name of a tenant"):
        seen(world, "group:staff", tenant="")
