"""One call that checks one table: which rows, which expectations, which engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipelines.errors import LakeError
from pipelines.lake.tables import Lake
from pipelines.quality.arrow_engine import evaluate, outcome
from pipelines.quality.outcome import ExpectationOutcome
from pipelines.quality.selection import all_rows, commits_of_run, rows_of_commits
from pipelines.quality.suite import Limits
from pipelines.quality.suites import SUITES

Scope = Literal["changed", "all"]
Engine = Literal["arrow", "great_expectations"]
_NO_LIMITS = Limits()


def check_table(
    lake: Lake,
    table: str,
    *,
    scope: Scope,
    run_id: str,
    since_version: int | None = None,
    limits: Limits = _NO_LIMITS,
    engine: Engine = "great_expectations",
    data_docs: Path | None = None,
) -> list[ExpectationOutcome]:
    """The outcome of every expectation on a table, in the order of its suite.

    With scope "changed" only the rows are looked at that commits of this run added or changed; when there are none,
    nothing is read but the table's log, and every outcome says that no row was checked. All rows are looked at, too,
    when the log no longer tells which these are, as after a run of many hours.

    Args:
        lake: the tables.
        table: one of `SUITES`.
        scope: which rows.
        run_id: of the run whose rows are meant; with scope "all", for the record in the Data Docs.
        since_version: the table's version when the run began, so that less of the log is read.
        limits: what today's encoder asks of chunks and vectors.
        engine: what evaluates. Both give the same outcomes; Great Expectations costs 2 s of import, once a process.
        data_docs: where Great Expectations' pages go, if it is the engine and all rows are checked.

    Raises:
        LakeError: there are no expectations on such a table, or it is damaged.
    """
    suite = SUITES.get(table)
    if suite is None:
        raise LakeError(f"there are no expectations on a table {table!r}; there are on: {', '.join(SUITES)}")
    expectations = suite.expectations(limits)
    commits = None
    if scope == "changed":
        commits = commits_of_run(lake, table, run_id=run_id, since_version=since_version)
        if commits == []:
            return [outcome(expectation, checked=0, failed=0) for expectation in expectations]
    whole = commits is None
    batches = (
        all_rows(lake, table, suite.columns)
        if commits is None
        else rows_of_commits(lake, table, commits, suite.columns)
    )
    rows = suite.measured(lake, batches, whole=whole)
    if rows is None:
        return [outcome(expectation, checked=0, failed=0) for expectation in expectations]
    if engine == "arrow":
        return evaluate(expectations, rows, suite.keys)

    from pipelines.quality.gx_engine import validate

    validation = validate(table, expectations, rows, suite.keys, whole=whole)
    if data_docs is not None and whole:
        from pipelines.quality.data_docs import build_data_docs

        build_data_docs(data_docs, table, validation, keys=suite.keys, run_id=run_id, checked_rows=rows.num_rows)
    return validation.outcomes
