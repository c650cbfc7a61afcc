"""The expectations on tables as blocking checks: on what changed in an update, on every row in a nightly rebuild."""

from collections.abc import Sequence

import dagster as dg

from assets.catalogue import WRITER_POOL, markdown_table, record_table
from pipelines.quality import ExpectationOutcome, check_table
from resources.project import LockstepWriter

TABLES = ("documents", "chunks", "embeddings", "index_snapshots")


def _expectations(table: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=table,
        name="expectations",
        blocking=True,
        description=f"The Great Expectations suite of {table}: on the rows of this update, nightly on all of them.",
        pool=WRITER_POOL,
    )
    def check(context: dg.AssetCheckExecutionContext, writer: LockstepWriter) -> dg.AssetCheckResult:
        with writer.step(context, f"{table}_expectations") as step:
            outcomes = check_table(step.project, table, step.run_id, scope="all" if writer.full else "changed")
        return _shown(outcomes, scope="all rows" if writer.full else "rows of this update")

    return check


checks = [_expectations(table) for table in TABLES]


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
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if grave or not failed else dg.AssetCheckSeverity.WARN,
        description=f"{len(failed)} of {len(outcomes)} expectations failed on {scope}: "
        + ", ".join(outcome.name for outcome in failed)
        if failed
        else f"{len(outcomes)} expectations hold on {scope}.",
        metadata={
            "scope": scope,
            "expectations": markdown_table(summary),
            **({"failing_rows": record_table(failing)} if failing else {}),
        },
    )
