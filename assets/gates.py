"""The gates as blocking checks of `index_snapshots`: while one does not pass, the alias is not moved."""

from collections.abc import Iterator

import dagster as dg

from assets.catalogue import WRITER_POOL, record_table
from pipelines.lake import snapshots
from pipelines.lake.snapshots import AGREEMENT
from pipelines.project import Project
from pipelines.update.reports import GateResult
from pipelines.update.snapshot import agreement
from pipelines.update.snapshot.gates import GATES, record_gates, run_gates
from resources.project import LockstepWriter
from resources.step import Step

ASSET = "index_snapshots"


@dg.multi_asset_check(
    name="gates",
    specs=[
        dg.AssetCheckSpec(name, asset=ASSET, blocking=True, description=(gate.__doc__ or "").strip())
        for name, gate in GATES.items()
    ]
    + [dg.AssetCheckSpec(AGREEMENT, asset=ASSET, blocking=True, description=agreement.DESCRIPTION)],
    ins={"snapshot_id": dg.AssetIn(ASSET)},
    pool=WRITER_POOL,
)
def gates(
    context: dg.AssetCheckExecutionContext, snapshot_id: str, writer: LockstepWriter
) -> Iterator[dg.AssetCheckResult]:
    """Run every gate on the candidate and record the results with its snapshot; promotion needs them all.

    A rebuild that was asked for is compared with the live index, too; a difference fails the run, after all results.
    """
    with writer.step(context, "gates") as step:
        results = _judge(step.project, snapshot_id, step, rebuilt=writer.full)
        step.done(results if agreement.was_asked(results[-1]) else results[:-1])
    for result in results:
        yield _shown(result)
    with writer.step(context, "gates"):
        agreement.require_agreement(snapshot_id, results[-1])


def _judge(project: Project, snapshot_id: str, step: Step, *, rebuilt: bool) -> list[GateResult]:
    """The results of all gates, and last whether a rebuild agrees with the live index."""
    snapshot = snapshots.find(snapshots.recent(project.lake, project.alias), snapshot_id)
    if snapshot.status == "live":  # nothing was built: what was proved then is still what holds
        proved = [
            GateResult(name, bool(details.get("passed")), f"Passed when {snapshot_id} was built.", dict(details))
            for name, details in snapshot.gates.items()
            if name in GATES
        ]
        return [*proved, agreement.not_asked("nothing was built")]
    results = run_gates(project, snapshot_id)
    if rebuilt and all(result.passed for result in results):
        results.append(agreement.agreement(project, snapshot_id, progress=step.progress))
    else:
        results.append(agreement.not_asked("a gate did not pass" if rebuilt else "no rebuild was asked for"))
    record_gates(project, snapshot_id, results, run_id=step.run_id)
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
