"""The demo corpus and its golden questions: who asks finds what answers, and never what is not for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import load_config
from pipelines.home import Home
from pipelines.index.server import stop_server
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from tests.updating import update

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = [json.loads(line) for line in (ROOT / "examples" / "golden_questions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    project = Project(load_config(ROOT / "lockstep.yaml", {}), Home(tmp_path_factory.mktemp("golden")))
    done = update(project)
    assert (done.manifest.active, done.manifest.quarantined) == (48, 1)
    yield Asker(project)
    stop_server(project.home)


def found(asker: Asker, question: dict[str, Any], *, k: int, mode: str = "hybrid") -> list[str]:
    answer = asker.ask_documents([question["question"]], question["as"], k=k, mode=mode)
    return [hit.uri for hit in answer.hits[0]]


def test_nearly_every_question_finds_its_document_among_the_first_five(asker: Asker) -> None:
    answered = [question for question in QUESTIONS if question["answers"]]
    missed = [q["id"] for q in answered if not set(found(asker, q, k=5)) & set(q["answers"])]
    assert len(answered) >= 60
    assert len(missed) <= 2, missed


@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_nobody_finds_what_is_not_for_them(asker: Asker, mode: str) -> None:
    asked = [question for question in QUESTIONS if question["must_not"]]
    assert len(asked) >= 8
    for question in asked:
        assert not set(found(asker, question, k=50, mode=mode)) & set(question["must_not"]), question["id"]


def test_a_caller_without_principals_finds_nothing(asker: Asker) -> None:
    assert all(found(asker, {**question, "as": []}, k=5) == [] for question in QUESTIONS)
