"""Files of questions and TREC runs: the columns, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cli.batch import read_questions, trec_lines
from pipelines.errors import ConfigError
from pipelines.retrieval.search import Hit


def hit(uri: str, score: float) -> Hit:
    return Hit(
        chunk_id="c",
        score=score,
        doc_id="d",
        uri=uri,
        source="s",
        tenant="default",
        acl_id=1,
        text="t",
        title="",
        heading_path="",
        pages="",
        body_start=0,
    )


def test_questions_are_read_in_their_order_and_blank_lines_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    path.write_text("7\tWhat is leave?\n\n2\tA tab\tin the question\n", encoding="utf-8")
    assert read_questions(path) == [("7", "What is leave?"), ("2", "A tab\tin the question")]


@pytest.mark.parametrize(
    ("text", "line"),
    [("1\tgood\nno tab\n", 2), ("\tno id\n", 1), ("1\t \n", 1), ("1\ta\n1\tb\n", 2)],
    ids=["no tab", "no id", "no question", "id twice"],
)
def test_a_malformed_line_is_named(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "q.tsv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"q\.tsv:{line}: "):
        read_questions(path)


def test_a_run_has_six_columns_ranked_from_one(tmp_path: Path) -> None:
    lines = list(trec_lines([("q1", [hit("a b.md", 0.5), hit("c.md", 0.25)]), ("q2", [])]))
    assert [line.split() for line in lines] == [
        ["q1", "Q0", "a%20b.md", "1", "0.500000", "lockstep"],
        ["q1", "Q0", "c.md", "2", "0.250000", "lockstep"],
    ]
