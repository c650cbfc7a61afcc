"""Expectations on tables: each can fail, names the row, and costs nothing when nothing changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import LakeError
from pipelines.lake.tables import Lake
from pipelines.quality import SUITES, ExpectationOutcome, Limits, check_table
from tests.fakes.quality_rows import BROKEN, GOOD, LIMITS, Broken, as_table, chunk, embedding, fill


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def outcomes(
    lake: Lake, table: str, *, run_id: str = "run-1", limits: Limits = LIMITS
) -> dict[str, ExpectationOutcome]:
    found = check_table(lake, table, scope="changed", run_id=run_id, limits=limits, engine="arrow")
    assert len({outcome.name for outcome in found}) == len(found)
    return {outcome.name: outcome for outcome in found}


@pytest.mark.parametrize("table", SUITES)
def test_tables_as_they_should_be_meet_every_expectation(lake: Lake, table: str) -> None:
    fill(lake, table)
    found = outcomes(lake, table)
    assert [outcome for outcome in found.values() if not outcome.passed] == []
    assert max(outcome.checked_rows for outcome in found.values()) == len(GOOD[table])


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_row_is_found_and_named_by_its_key(lake: Lake, case: Broken) -> None:
    fill(lake, case.table, broken=case.row, run_id="run-2")
    found = outcomes(lake, case.table, run_id="run-2")[case.expectation]
    assert not found.passed
    keys = SUITES[case.table].keys
    assert [{key: row[key] for key in keys} for row in found.failing_rows] == [{key: case.row[key] for key in keys}]
    assert found.checked_rows == 1


def test_every_expectation_has_a_row_that_breaks_it() -> None:
    every = {(table, one.name) for table, suite in SUITES.items() for one in suite.expectations(LIMITS)}
    assert {(case.table, case.expectation) for case in BROKEN} == every


def test_an_outcome_says_what_was_expected_and_what_was_found(lake: Lake) -> None:
    fill(lake, "chunks", broken=chunk("long", 0, chunk_count=1, tokens=300))
    found = outcomes(lake, "chunks")["tokens_within_encoder"]
    assert found.expected == f"tokens is at most 256, where recipe_fp is {'b' * 32}"
    assert found.observed.startswith("1 of 4 rows do not; the first: ")
    assert found.failing_rows[0]["tokens"] == 300


def test_at_most_twenty_failing_rows_are_shown_and_all_are_counted(lake: Lake) -> None:
    rows = [embedding(str(number), vector=[2.0, 0.0]) for number in range(30)]
    lake.append("embeddings", as_table("embeddings", rows), run_id="run-1")
    found = outcomes(lake, "embeddings")["unit_length"]
    assert len(found.failing_rows) == 20
    assert found.observed.startswith("30 of 30 rows")


def test_a_strange_title_only_warns(lake: Lake) -> None:
    fill(lake, "documents")
    found = outcomes(lake, "documents")
    assert {name for name, outcome in found.items() if outcome.severity == "warn"} == {
        "title_given",
        "modified_not_in_future",
    }


def test_chunks_and_vectors_of_other_recipes_and_models_keep_their_own_limits(lake: Lake) -> None:
    fill(lake, "chunks", broken=chunk("long", 0, chunk_count=1, tokens=300, recipe_fp="0" * 32))
    assert outcomes(lake, "chunks")["tokens_within_encoder"].passed
    assert not outcomes(lake, "chunks", limits=Limits(max_tokens=256))["tokens_within_encoder"].passed
    fill(lake, "embeddings")
    assert outcomes(lake, "embeddings")["dimension_of_model"].checked_rows == 2
    assert not outcomes(lake, "embeddings", limits=Limits(dimension=2))["dimension_of_model"].passed


def test_limits_that_are_not_given_are_not_looked_at(lake: Lake) -> None:
    lake.append("embeddings", as_table("embeddings", [embedding("a", vector=[3.0])]), run_id="run-1")
    found = outcomes(lake, "embeddings", limits=Limits(unit_length=False))
    assert all(outcome.passed for outcome in found.values())
    assert not {"unit_length", "dimension_of_model"} & set(found)


def test_a_run_that_repeats_an_older_key_is_found_though_only_its_own_rows_are_looked_at(lake: Lake) -> None:
    fill(lake, "embeddings")
    lake.append("embeddings", as_table("embeddings", [embedding("a"), embedding("z")]), run_id="run-2")
    found = outcomes(lake, "embeddings", run_id="run-2")["key_unique"]
    assert found.checked_rows == 2
    assert [row["copies"] for row in found.failing_rows] == [2]


def test_contents_whose_chunks_were_committed_in_portions_are_complete(lake: Lake) -> None:
    lake.append("chunks", as_table("chunks", [chunk("a", 0)]), run_id="run-1")
    assert not outcomes(lake, "chunks")["content_complete"].passed
    lake.append("chunks", as_table("chunks", [chunk("a", 1)]), run_id="run-1")
    assert outcomes(lake, "chunks")["content_complete"].passed


@pytest.mark.parametrize("table", SUITES)
def test_a_run_that_changed_nothing_checks_no_row(lake: Lake, table: str) -> None:
    fill(lake, table)
    for found in outcomes(lake, table, run_id="run-2").values():
        assert (found.passed, found.checked_rows, found.failing_rows) == (True, 0, ())
        assert found.observed == "no row to check"


def test_a_table_that_was_never_written_has_no_row_to_check(lake: Lake) -> None:
    for table in SUITES:
        assert {outcome.checked_rows for outcome in check_table(lake, table, scope="all", run_id="r")} == {0}


def test_a_table_without_expectations_is_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match="there are on: documents"):
        check_table(lake, "audit_log", scope="all", run_id="r")


@pytest.mark.parametrize(("run_id", "engine", "checked"), [("run-1", "arrow", 4), ("run-2", "great_expectations", 0)])
def test_arrow_and_an_update_that_changed_nothing_import_nothing_heavy(
    lake: Lake, run_id: str, engine: str, checked: int
) -> None:
    fill(lake, "documents")
    program = (
        "import sys\n"
        "from pipelines.lake.tables import Lake\n"
        "from pipelines.quality import check_table\n"
        f"lake = Lake({str(Path(lake.uri('documents')).parent)!r})\n"
        f"found = check_table(lake, 'documents', scope='changed', run_id={run_id!r}, engine={engine!r})\n"
        "print(found[0].checked_rows)\n"
        "heavy = {'great_expectations', 'torch', 'scipy', 'altair', 'unstructured'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [str(checked), "[]"]
