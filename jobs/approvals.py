"""The operator's word that the guard against mass deletion asks for."""

import dagster as dg
from pydantic import Field

from assets.catalogue import report_metadata
from assets.freshness import standing_checks
from pipelines.update.applying.approvals import approve, requests
from pipelines.update.upkeep.freshness import freshness
from resources.project import LockstepProject


class ApprovalConfig(dg.Config):
    """Whose deletions, and who says so."""

    source: str = Field(description="The source whose deletions wait; the check `deletions_approved` names it.")
    by: str = Field(default="an operator of the UI", description="Who allows it; kept in the audit log.")


@dg.op(name="approve_source_deletions")
def approve_source_deletions(context: dg.OpExecutionContext, config: ApprovalConfig, project: LockstepProject) -> None:
    """Allow the deletions that the guard showed, and no others. The next update does them, within seconds."""
    with project.step(context, "approve_deletions") as step:
        report = step.done(approve(step.project, config.source, by=config.by, run_id=step.run_id))
        checks = standing_checks(freshness(step.project), requests(step.project))
    context.log_event(dg.AssetObservation("sources", metadata={**report_metadata(report), "reason": "approval"}))
    for check in checks:
        context.instance.report_runless_asset_event(check)


@dg.job(
    name="approve_deletions",
    description=(
        "Allow the deletions of one source (config `source`) that the guard has stopped and shown. Only the documents "
        "that were shown are covered: if others are missing by then, it asks again."
    ),
)
def approve_deletions() -> None:
    """Allow the deletions of one source."""
    approve_source_deletions()
