"""Reading the live index back in full: a check that any reader may run at any time, and that runs every night."""

import dagster as dg

from assets.catalogue import record_table, report_metadata
from pipelines.update.snapshot.verify import verify
from resources.project import LockstepProject


@dg.asset_check(
    asset="live_index",
    name="matches_tables",
    description="Every row that readers can find is what the tables say, none is missing and none too many: "
    "read back in full, with its vectors, bit for bit. Does not write, and so needs no writer lock.",
)
def matches_tables(context: dg.AssetCheckExecutionContext, project: LockstepProject) -> dg.AssetCheckResult:
    """Read the live collection back and compare every row and vector with what the tables give."""
    with project.step(context, "verify") as step:
        report = step.done(verify(step.project, progress=step.progress))
    differing = list(report.differing_rows)
    return dg.AssetCheckResult(
        passed=report.ok,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{report.rows:,} rows read back, {report.expected_rows:,} expected; "
        + (f"compared: {report.compared}." if report.ok else f"{report.differing:,} rows or vectors differ."),
        metadata={**report_metadata(report), **({"failing_rows": record_table(differing)} if differing else {})},
    )
