"""Great Expectations over the whole tables: the same outcomes, pages that need no network, nothing printed."""

from __future__ import annotations

import json
import random
import re
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.lake.tables import Lake
from pipelines.quality import SUITES, ExpectationOutcome, check_table
from tests.fakes.quality_rows import BROKEN, GOOD, LIMITS, as_table, document, fill


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def check(
    lake: Lake, table: str, engine: Any = "great_expectations", data_docs: Path | None = None
) -> list[ExpectationOutcome]:
    return check_table(lake, table, scope="all", run_id="nightly", limits=LIMITS, engine=engine, data_docs=data_docs)


@pytest.mark.parametrize("table", SUITES)
def test_both_engines_find_the_same_on_every_row_of_a_table(lake: Lake, table: str) -> None:
    fill(lake, table)
    lake.append(table, as_table(table, [case.row for case in BROKEN if case.table == table]), run_id="run-2")
    found = check(lake, table)
    assert found == check(lake, table, "arrow")
    assert [outcome.name for outcome in found if outcome.passed] == []


@pytest.mark.parametrize("table", ["chunks", "index_snapshots"])
def test_both_engines_find_the_same_on_the_rows_of_a_run(lake: Lake, table: str) -> None:
    fill(lake, table)
    lake.append(table, as_table(table, [case.row for case in BROKEN if case.table == table]), run_id="run-2")
    by_gx, by_arrow = (
        check_table(lake, table, scope="changed", run_id="run-2", limits=LIMITS, engine=engine)
        for engine in ("great_expectations", "arrow")
    )
    assert by_gx == by_arrow


@pytest.mark.parametrize("table", SUITES)
def test_both_engines_find_the_same_on_random_mixtures_of_rows(tmp_path: Path, table: str) -> None:
    chance = random.Random(table)
    cases = [case.row for case in BROKEN if case.table == table]
    outcomes = set()
    for number in range(6):
        lake = Lake(tmp_path / f"lake-{number}")
        fill(lake, table)
        rows = chance.choices(cases, k=chance.randint(1, 5)) + chance.choices(GOOD[table], k=chance.randint(0, 4))
        chance.shuffle(rows)
        lake.append(table, as_table(table, rows), run_id="run-2")
        found = check(lake, table)
        assert found == check(lake, table, "arrow")
        outcomes |= {(outcome.name, outcome.observed) for outcome in found}
    assert len(outcomes) > len(SUITES[table].expectations(LIMITS))  # they were not always the same


def test_both_engines_pass_a_table_that_is_as_it_should_be(lake: Lake) -> None:
    fill(lake, "documents")
    found = check(lake, "documents")
    assert found == check(lake, "documents", "arrow")
    assert all(outcome.passed for outcome in found)


@pytest.mark.usefixtures("no_network")
def test_data_docs_appear_for_each_table_and_name_the_failing_rows(lake: Lake, tmp_path: Path) -> None:
    docs = tmp_path / "data_docs"
    fill(lake, "documents", broken=document("finance/<b>plan</b>.md", version=-4))
    fill(lake, "embeddings")
    check(lake, "documents", data_docs=docs)
    check(lake, "embeddings", data_docs=docs)
    index = (docs / "index.html").read_text("utf-8")
    for link in ("validations/documents.html", "expectations/documents.html", "validations/embeddings.html"):
        assert f'href="{link}"' in index
        assert (docs / link).is_file()
    page = (docs / "validations" / "documents.html").read_text("utf-8")
    assert "finance/&lt;b&gt;plan&lt;/b&gt;.md" in page
    assert "<b>plan" not in page
    assert "version is at least 0" in page
    assert "version is at least 0" in (docs / "expectations" / "documents.html").read_text("utf-8")
    record = json.loads((docs / "validations" / "documents.json").read_text("utf-8"))
    assert record["checked_rows"] == len(GOOD["documents"]) + 1
    assert not list(docs.rglob(".*"))


def test_data_docs_load_nothing_from_anywhere_and_run_no_script(lake: Lake, tmp_path: Path) -> None:
    fill(lake, "documents", broken=document("<script>alert(1)</script>", status="<script>alert(2)</script>"))
    check(lake, "documents", data_docs=tmp_path)
    for page in tmp_path.rglob("*.html"):
        text = page.read_text("utf-8")
        assert "default-src 'none'" in text
        assert not re.search(r"<(script|link|img|iframe)\b|url\(|https?:", text)


def test_every_link_in_the_data_docs_leads_to_a_page(lake: Lake, tmp_path: Path) -> None:
    fill(lake, "index_snapshots")
    check(lake, "index_snapshots", data_docs=tmp_path)
    for page in tmp_path.rglob("*.html"):
        links = re.findall(r'href="([^"#][^"]*)"', page.read_text("utf-8"))
        assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.mark.usefixtures("no_network")
def test_nothing_is_printed_and_nothing_warns(lake: Lake, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(lake, "chunks")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(lake, "chunks", data_docs=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_an_expectation_that_cannot_be_evaluated_does_not_pass(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.quality.expectations import Matches

    fill(lake, "embeddings")
    suite = replace(SUITES["embeddings"], expectations=lambda _: (Matches(name="odd", column="norm", pattern="("),))
    monkeypatch.setitem(SUITES, "embeddings", suite)
    (found,) = check(lake, "embeddings")
    assert not found.passed
    assert "could not be evaluated" in found.observed
