"""Who finds what, from rules in the configuration to hits: held against a plain reading of the rules."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.cli.main import main
from pipelines.embedding.encoder import load_encoder
from pipelines.home import Home
from pipelines.index.server import stop_server
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from tests.updating import open_project, update, write_config

pytestmark = pytest.mark.integration

PRINCIPALS = [*(f"group:g{n}" for n in range(6)), *(f"user:u{n}" for n in range(4)), "role:admin", "role:auditor"]
FOLDERS = ("hr", "hr/pay", "legal", "legal/cases", "eng", "eng/specs", "open", "")
PATTERNS = (
    "hr/**",
    "hr/pay/**",
    "legal/**",
    "legal/cases/*1*",
    "eng/**",
    "**/*7.txt",
    "*.txt",
    "open/**",
    "eng/specs/*",
)
DOCUMENTS, QUESTIONS, CALLERS, RULE_SETS, K = 240, 45, 80, 3, 10


def matches(pattern: str, uri: str) -> bool:
    """The documentation's words, one segment after the other: `*` inside a segment, `**` any number of segments."""

    def segment(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return any(segment(pattern[1:], name[i:]) for i in range(len(name) + 1))
        return bool(name) and name[0] == pattern[0] and segment(pattern[1:], name[1:])

    def path(patterns: Sequence[str], names: Sequence[str]) -> bool:
        if not patterns:
            return not names
        if patterns[0] == "**":
            return any(path(patterns[1:], names[i:]) for i in range(len(names) + 1))
        return bool(names) and segment(patterns[0], names[0]) and path(patterns[1:], names[1:])

    return path(pattern.split("/"), uri.split("/"))


def may_read(rules: Sequence[dict[str, object]], uri: str, caller: Sequence[str]) -> bool:
    for rule in rules:
        if matches(str(rule["match"]), uri):
            return bool(set(rule["readers"]) & set(caller))
    return "role:admin" in caller


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Short documents, one chunk each, in folders."""
    chance = random.Random(20261121)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(3, 7))) for _ in range(400)]
    root = tmp_path_factory.mktemp("access")
    texts = {}
    for number in range(DOCUMENTS):
        uri = "/".join(part for part in (chance.choice(FOLDERS), f"d{number}.txt") if part)
        texts[uri] = " ".join(chance.choices(words, k=12))
        path = root / "corpus" / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[uri], encoding="utf-8")
    return root, texts


@pytest.fixture(scope="module")
def project_of(corpus: tuple[Path, dict[str, str]], tiny_model: Path) -> Iterator[object]:
    """Brings the index to a rule set; the same data folder for all, so that only access changes between them."""
    opened: list[Project] = []

    def build(rules: Sequence[dict[str, object]]) -> Project:
        source = {"name": "docs", "kind": "filesystem", "path": str(corpus[0] / "corpus"), "access": list(rules)}
        project = open_project(corpus[0], encoder={"model": str(tiny_model), "dtype": "float32"}, sources=[source])
        opened.append(project)
        return project

    yield build
    stop_server(opened[0].home)


def random_rules(chance: random.Random) -> list[dict[str, object]]:
    patterns = chance.sample(PATTERNS, k=chance.randint(2, 6))
    return [{"match": p, "readers": chance.sample(PRINCIPALS, k=chance.randint(0, 3))} for p in patterns]


def test_a_rollback_by_command_gives_nobody_back_what_a_rule_has_taken_away(tmp_path: Path, tiny_model: Path) -> None:
    def configured(readers: list[str]) -> Path:
        access = [{"match": "**", "readers": readers}]
        source = {"name": "docs", "kind": "filesystem", "path": "corpus", "access": access}
        return write_config(tmp_path, encoder={"model": str(tiny_model), "dtype": "float32"}, sources=[source])

    def lockstep(*arguments: str) -> dict[str, Any]:
        command = [*arguments, "--config", str(tmp_path / "lockstep.yaml"), "--json"]
        told = CliRunner().invoke(main, command, env={"LOCKSTEP_HOME": str(tmp_path / "home")}, catch_exceptions=False)
        assert told.exit_code == 0, told.output
        found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
        return found

    def seen(who: str, *more: str) -> list[str]:
        return sorted(hit["uri"] for hit in lockstep("query", "plans", "--as", who, *more)["hits"])

    (tmp_path / "corpus").mkdir()
    for name in ("one.txt", "two.txt"):
        (tmp_path / "corpus" / name).write_text(f"The plans of {name}.", encoding="utf-8")
    try:
        configured(["group:all"])
        lockstep("update")
        assert seen("group:all") == ["one.txt", "two.txt"]
        configured(["group:hr"])
        for mode in ("hybrid", "dense", "bm25"):
            assert seen("group:all", "--mode", mode) == []  # before anybody has updated anything
        lockstep("update")
        assert seen("group:hr") == ["one.txt", "two.txt"]
        lockstep("rollback")
        for mode in ("hybrid", "dense", "bm25"):
            assert seen("group:all", "--mode", mode) == []
        batch = tmp_path / "questions.tsv"
        batch.write_text("q1\tplans\n", encoding="utf-8")
        assert lockstep("query", "--batch", str(batch), "--as", "group:all")["questions"] == [{"id": "q1", "hits": []}]
        configured(["group:all"])
        assert seen("group:all") == ["one.txt", "two.txt"]
    finally:
        stop_server(Home(tmp_path / "home"))


def test_no_hit_is_forbidden_and_none_of_the_best_is_missing(
    corpus: tuple[Path, dict[str, str]], project_of: object
) -> None:
    chance = random.Random(7)
    texts = corpus[1]
    uris = sorted(texts)
    checks = nonempty = 0
    for number in range(RULE_SETS):
        rules = random_rules(chance)
        project: Project = project_of(rules)  # type: ignore[operator]
        done = update(project, f"rules-{number}")
        assert done.encoded.encoded == (len(set(texts.values())) if number == 0 else 0)
        assert done.candidate.rows == DOCUMENTS
        encoder = load_encoder(project.config.encoder)
        asker = Asker(project)
        table = project.lake.read("embeddings", ["text_hash", "vector"])
        chunks = project.lake.read("chunks", ["content_hash", "text_hash", "text"])
        vector_of = dict(zip(table["text_hash"].to_pylist(), table["vector"].to_pylist(), strict=True))
        body = {row["text"]: vector_of[row["text_hash"]] for row in chunks.to_pylist()}
        vectors = np.array([body[texts[uri]] for uri in uris], np.float32)
        for _ in range(CALLERS):
            caller = chance.sample(PRINCIPALS, k=chance.randint(0, 4))
            questions = [" ".join(chance.choices(list(texts.values()), k=1)[0].split()[:6]) for _ in range(QUESTIONS)]
            allowed = np.array([may_read(rules, uri, caller) for uri in uris])
            scores = vectors @ encoder.encode(questions).T
            dense = asker.ask(questions, caller, k=K, mode="dense")
            hybrid = asker.ask(questions, caller, k=K, mode="hybrid")
            for question in range(QUESTIONS):
                checks += 1
                found = [hit.uri for hit in dense.hits[question]]
                assert all(may_read(rules, uri, caller) for uri in found)
                assert all(may_read(rules, hit.uri, caller) for hit in hybrid.hits[question])
                best = np.sort(scores[allowed, question])[::-1][:K]
                mine = sorted((scores[uris.index(uri), question] for uri in found), reverse=True)
                assert len(found) == min(K, int(allowed.sum()))
                np.testing.assert_allclose(mine, best, atol=2e-5)
                nonempty += bool(found)
    assert checks >= 10_000
    assert nonempty > checks / 2
