"""What the next update would do and cost, as an asset that can be made at any time and changes nothing."""

import dagster as dg

from assets.catalogue import OWNERS, Materialization, record_table, report_metadata
from assets.freshness import asked_lines
from assets.ingestion import outcome_line, problem_line
from pipelines.update.applying.approvals import requests
from pipelines.update.plan import plan
from resources.project import LockstepProject


class PlanConfig(dg.Config):
    """What the plan assumes."""

    approve_deletions: bool = False
    scan: bool = True


@dg.asset(
    deps=["sources", "change_events", "documents"],
    group_name="operate",
    owners=OWNERS,
    kinds={"python"},
    tags={"layer": "operations"},
)
def update_plan(context: dg.AssetExecutionContext, config: PlanConfig, project: LockstepProject) -> Materialization:
    """What an update would add, change, delete, parse and encode now, and how long that would take. Changes nothing.

    It looks at every source and parses new contents in memory; with `scan: false` it only counts what already waits.
    Deletions that the guard would refuse are named with how to approve them.
    """
    with project.step(context, "update_plan") as step:
        report = step.done(plan(step.project, approve_deletions=config.approve_deletions, scan=config.scan))
        asked = requests(step.project)
    problems = [problem_line(problem) for outcome in report.sources for problem in outcome.problems]
    lines = [outcome_line(outcome) for outcome in report.sources]
    for line in lines:
        del line["error"]  # among the notes, where there is room for it
    notes = "\n".join(f"- {note}" for note in report.notes)
    return dg.MaterializeResult(
        metadata={
            "notes": dg.MetadataValue.md(notes or "Nothing stands against it."),  # what an operator has to decide first
            **report_metadata(report),
            "sources": record_table(lines),
            **({"deletions_asked": record_table(asked_lines(asked))} if asked else {}),
            **({"problems": record_table(problems[:20])} if problems else {}),
        }
    )
