"""Reading the live index back in full: a check that any reader may run at any time, and that runs every night."""

import dagster as dg

from assets.catalogue import record_table, report_metadata
from pipelines.update.snapshot.verify import verify
from resources.project import LockstepProject


@dg.asset_check(
    asset="live_index",
    name="matches_tables",
    description="Every row that readers can find is what the tables say, none is missing and none too many: "
    "read back in full, by digest. Does not write, and so needs no writer lock.",
)
def matches_tables(context: dg.AssetCheckExecutionContext, project: LockstepProject) -> dg.AssetCheckResult:
    """Read the live collection back and compare its digest with the one that the tables give."""
    with project.step(context, "verify") as step:
        report = step.done(verify(step.project))
    differing = [{"document": uri} for uri in report.differing_documents]
    return dg.AssetCheckResult(
        passed=report.ok,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{report.rows:,} rows read back, "
        + ("all as the tables say." if report.ok else f"{report.expected_rows:,} expected; the digests differ."),
        metadata={**report_metadata(report), **({"failing_rows": record_table(differing)} if differing else {})},
    )
