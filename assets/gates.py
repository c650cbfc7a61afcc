"""The gates as blocking checks of `index_snapshots`: while one does not pass, the alias is not moved."""

from collections.abc import Iterator

import dagster as dg

from assets.catalogue import WRITER_POOL, record_table
from pipelines.lake import snapshots
from pipelines.project import Project
from pipelines.update.reports import GateResult
from pipelines.update.snapshot.gates import GATES, record_gates, run_gates
from resources.project import LockstepWriter

ASSET = "index_snapshots"


@dg.multi_asset_check(
    name="gates",
    specs=[
        dg.AssetCheckSpec(name, asset=ASSET, blocking=True, description=(gate.__doc__ or "").strip())
        for name, gate in GATES.items()
    ],
    ins={"snapshot_id": dg.AssetIn(ASSET)},
    pool=WRITER_POOL,
)
def gates(
    context: dg.AssetCheckExecutionContext, snapshot_id: str, writer: LockstepWriter
) -> Iterator[dg.AssetCheckResult]:
    """Run every gate on the candidate and record the results with its snapshot; promotion needs them all."""
    with writer.step(context, "gates") as step:
        results = step.done(_judge(step.project, snapshot_id, run_id=step.run_id))
    for result in results:
        yield _shown(result)


def _judge(project: Project, snapshot_id: str, *, run_id: str) -> list[GateResult]:
    snapshot = snapshots.find(snapshots.history(project.lake, project.alias), snapshot_id)
    if snapshot.status == "live":  # nothing was built: what was proved then is still what holds
        return [
            GateResult(name, bool(details.get("passed")), f"Passed when {snapshot_id} was built.", dict(details))
            for name, details in snapshot.gates.items()
            if name in GATES
        ]
    results = run_gates(project, snapshot_id)
    record_gates(project, snapshot_id, results, run_id=run_id)
    return results


def _shown(result: GateResult) -> dg.AssetCheckResult:
    details = {key: value for key, value in result.details.items() if key not in ("failing_rows", "passed")}
    failing = result.details.get("failing_rows") or []
    return dg.AssetCheckResult(
        asset_key=ASSET,
        check_name=result.name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=result.description,
        metadata={
            **{key: value if isinstance(value, int | float | str) else str(value) for key, value in details.items()},
            "failing_row_count": len(failing),
            **({"failing_rows": record_table(failing)} if failing else {}),
        },
    )
