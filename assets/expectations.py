"""The expectations on tables as blocking checks: on what changed in an update, on every row in a nightly rebuild."""

import time
from collections.abc import Sequence

import dagster as dg

from assets.catalogue import WRITER_POOL, record_table
from pipelines.lake.manifest import active_documents
from pipelines.project import Project
from pipelines.quality import SUITES, ExpectationOutcome, Limits, check_table
from pipelines.update.reports import ExpectationsReport
from resources.project import LockstepWriter


def _expectations(table: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=table,
        name="expectations",
        blocking=True,
        description=f"What must be true of the rows of {table}: in an update of the rows it wrote, nightly of all, by "
        "Great Expectations, with its pages in the data folder under data_docs.",
        pool=WRITER_POOL,
    )
    def check(context: dg.AssetCheckExecutionContext, writer: LockstepWriter) -> dg.AssetCheckResult:
        with writer.step(context, f"{table}_expectations") as step:
            started = time.perf_counter()
            outcomes = _check(step.project, table, step.run_id, every_row=writer.full)
            step.done(_report(table, outcomes, time.perf_counter() - started))
        return _shown(outcomes, scope="all rows" if writer.full else "the rows of this update")

    return check


checks = [_expectations(table) for table in SUITES]


def _check(project: Project, table: str, run_id: str, *, every_row: bool) -> list[ExpectationOutcome]:
    return check_table(
        project.lake,
        table,
        scope="all" if every_row else "changed",
        run_id=run_id,
        limits=_limits(project, every_row=every_row),
        engine="great_expectations" if every_row else project.config.quality.update_engine,
        data_docs=project.home.data_docs,
    )


def _report(table: str, outcomes: Sequence[ExpectationOutcome], seconds: float) -> ExpectationsReport:
    failed = sum(not outcome.passed for outcome in outcomes)
    rows = max((outcome.checked_rows for outcome in outcomes), default=0)
    return ExpectationsReport(table, len(outcomes), failed, rows, seconds)


def _limits(project: Project, *, every_row: bool) -> Limits:
    """What today's encoder asks; among all rows, chunks that an earlier recipe made keep their own limit."""
    recipe = project.recipe
    recipes = set(recipe.keyed(active_documents(project.lake))["recipe_fp"].to_pylist()) if every_row else None
    return Limits(
        max_tokens=recipe.max_tokens, recipe_fps=recipes, dimension=recipe.dimension, model_fp=recipe.model_fp
    )


def _shown(outcomes: Sequence[ExpectationOutcome], *, scope: str) -> dg.AssetCheckResult:
    failed = [outcome for outcome in outcomes if not outcome.passed]
    grave = [outcome for outcome in failed if outcome.severity == "error"]
    failing = [{"expectation": outcome.name, **row} for outcome in failed for row in outcome.failing_rows]
    summary = [
        {
            "expectation": o.name,
            "passed": o.passed,
            "expected": o.expected,
            "observed": o.observed,
            "rows": o.checked_rows,
        }
        for o in outcomes
    ]
    told = f"{len(outcomes)} expectations hold on {scope}."
    if failed:
        names = ", ".join(outcome.name for outcome in failed)
        told = f"{len(failed)} of {len(outcomes)} expectations failed on {scope}: {names}."
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if grave or not failed else dg.AssetCheckSeverity.WARN,
        description=told,
        metadata={
            "scope": scope,
            "rows_checked": max((outcome.checked_rows for outcome in outcomes), default=0),
            "expectations": record_table(summary),
            **({"failing_rows": record_table(failing)} if failing else {}),
        },
    )
