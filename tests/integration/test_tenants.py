"""Twenty tenants with the same documents, the same groups and the same names, on a real Milvus Lite."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipelines.cli.main import main
from pipelines.index.server import stop_server
from pipelines.lake import snapshots, term_statistics
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from tests.updating import open_project, update

pytestmark = pytest.mark.integration

TENANTS = [f"tenant {number:02} & co" for number in range(20)]
PEOPLE = ("group:staff", "group:hr", "group:R&D, Berlin", "user:ada", "role:admin")
ACCESS = [
    {"match": "hr/**", "readers": ["group:hr"]},
    {"match": "lab/**", "readers": ["group:R&D, Berlin", "user:ada"]},
    {"match": "*.txt", "readers": ["group:staff"]},
]
FILES = ("a.txt", "b.txt", "hr/c.txt", "lab/d.txt", "left/e.md")
WORDS = ["leave", "harvest", "pump", "contract", "yarn", "meadow", "invoice", "engine", "holiday", "winter"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("tenants")
    chance = random.Random(5)
    texts = {uri: " ".join(chance.choices(WORDS, k=12)) for uri in FILES}
    sources = []
    for number, tenant in enumerate(TENANTS):
        for uri, text in texts.items():
            path = folder / f"t{number}" / uri
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        source = {"name": f"s{number}", "kind": "filesystem", "path": f"t{number}", "tenant": tenant, "access": ACCESS}
        sources.append(source)
    (folder / "t7" / "only.txt").write_text("zyzzyva " * 5, encoding="utf-8")
    opened = open_project(folder, encoder={"model": str(tiny_model), "dtype": "float32"}, sources=sources)
    update(opened)
    yield opened
    stop_server(opened.home)


def may_read(uri: str, caller: list[str]) -> bool:
    for rule in ACCESS:
        match = str(rule["match"])
        if uri.startswith(match[:-2]) if match.endswith("/**") else "/" not in uri and uri.endswith(match[1:]):
            return bool(set(rule["readers"]) & set(caller))
    return "role:admin" in caller


def test_nobody_finds_a_row_of_another_tenant_in_fifty_thousand_answers(project: Project) -> None:
    chance = random.Random(11)
    asker = Asker(project)
    checks = hits = 0
    for number, tenant in enumerate(TENANTS):
        there = [*FILES, "only.txt"] if number == 7 else list(FILES)
        for caller in ([PEOPLE[0]], [PEOPLE[1]], [PEOPLE[2]], [PEOPLE[4]], list(PEOPLE)):
            expected = {uri for uri in there if may_read(uri, caller)}
            for mode, questions in (("dense", 200), ("bm25", 150), ("hybrid", 160)):
                texts = [" ".join(chance.choices(WORDS, k=3)) for _ in range(questions)]
                answer = asker.ask(texts, caller, tenant=tenant, k=20, mode=mode)  # type: ignore[arg-type]
                for found in answer.hits:
                    assert all(hit.source == f"s{number}" and hit.tenant == tenant for hit in found)
                    uris = {hit.uri for hit in found}
                    assert uris <= expected if mode == "bm25" else uris == expected
                    checks += 1
                    hits += len(found)
    assert checks >= 50_000
    assert hits > 50_000


def test_a_tenant_that_is_not_there_has_no_rows_whoever_asks(project: Project) -> None:
    for tenant in ("default", "tenant 00", "TENANT 00 & CO", 'x" or tenant != "'):
        assert Asker(project).ask(["leave"], list(PEOPLE), tenant=tenant).hits == [[]]


def test_how_rare_a_word_is_for_one_tenant_is_not_told_by_the_texts_of_another(project: Project) -> None:
    live = snapshots.live(snapshots.history(project.lake, project.alias))
    assert live is not None
    found = term_statistics.find(project.lake, live.snapshot_id)
    assert found is not None
    assert sorted(found) == TENANTS
    usual, own = found[TENANTS[0]], found[TENANTS[7]]
    assert (usual.rows, own.rows) == (len(FILES), len(FILES) + 1)
    assert len(own.terms) == len(usual.terms) + 1
    asker = Asker(project)
    answers = [asker.ask(["harvest pump"], list(PEOPLE), tenant=TENANTS[n], mode="bm25").hits[0] for n in (0, 1, 7)]
    first, second, other = ([hit.score for hit in hits] for hits in answers)
    assert first == second != other


def test_the_command_names_the_tenant_and_its_default_is_default(project: Project) -> None:
    def lockstep(*arguments: str) -> list[str]:
        config = str(project.home.root.parent / "lockstep.yaml")
        told = CliRunner().invoke(
            main,
            ["query", "leave harvest", "--as", "group:R&D, Berlin", "--config", config, "--json", *arguments],
            env={"LOCKSTEP_HOME": str(project.home.root)},
            catch_exceptions=False,
        )
        return [hit["source"] for hit in json.loads(told.stdout.splitlines()[-1])["hits"]]

    assert lockstep("--tenant", TENANTS[3]) == ["s3"]
    assert lockstep() == []
