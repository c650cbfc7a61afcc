"""The job that looks at one source, without the writer lock: an update applies later what it finds."""

from dataclasses import asdict
from enum import Enum
from typing import Any

import dagster as dg
from pydantic import Field

from assets.catalogue import record_table, report_metadata
from pipelines.errors import SourceStalled
from pipelines.project import Project
from pipelines.update.looking import progress as following
from pipelines.update.looking.contact import Beat, side_by_side
from pipelines.update.looking.observe import Mode, ObserveReport, observe
from resources.project import LockstepProject
from resources.step import Step

SOURCE_TAG = "lockstep/source"


class LookMode(Enum):
    """How much of a source is looked at."""

    listing = "listing"
    poll = "poll"
    hints = "hints"

    @property
    def mode(self) -> Mode:
        """The library's own word."""
        return self.value


class LookConfig(dg.Config):
    """Which source, and how."""

    source: str = Field(description="Name of the source in the configuration.")
    mode: LookMode = Field(
        default=LookMode.listing,
        description="listing: everything that is there; poll: what the source itself says has changed; "
        "hints: only what was announced and not looked at yet.",
    )
    thorough: bool = Field(default=False, description="Read every document and compare its bytes.")


@dg.op(name="look_at_source", tags={"kind": "python"})
def look_at_source(context: dg.OpExecutionContext, config: LookConfig, project: LockstepProject) -> None:
    """Compare one source with what is known of it, and make what differs durable in `change_events`.

    Writes nothing else: the next update applies it. A source that stays silent longer than `stall_seconds` is given up.
    """
    with project.step(context, "look") as step:
        report = step.done(_look(step.project, config, step))
    found = {"problems": record_table([asdict(problem) for problem in report.problems[:20]])} if report.problems else {}
    context.log_event(dg.AssetObservation("sources", metadata={**report_metadata(report), **found}))


def _look(project: Project, config: LookConfig, step: Step) -> ObserveReport:
    """One look, in a thread of its own, so that a source that hangs costs this run no more than its patience."""
    section = project.config.source(config.source)

    def work(beat: Beat) -> ObserveReport:
        def progress(done: int, total: int) -> None:
            beat()
            step.progress(done, total)

        mode, thorough = config.mode.mode, config.thorough
        return observe(project, section.name, run_id=step.run_id, mode=mode, thorough=thorough, progress=progress)

    found = side_by_side({section.name: work}, {section.name: section.stall_seconds})[section.name]
    if isinstance(found, SourceStalled):
        following.failed(project.home, section.name, found)
    if isinstance(found, BaseException):
        raise found
    return found


def look_config(source: str, mode: Mode) -> dict[str, Any]:
    """Run configuration of a look. Not tried again within the run: the sensor comes back when the source has rested."""
    return {
        "ops": {"look_at_source": {"config": {"source": source, "mode": mode}}},
        "resources": {"project": {"config": {"max_retries": 0}}},
        "loggers": {"console": {"config": {"log_level": "WARNING"}}},
    }


@dg.job(
    name="observe_source",
    description=(
        "Look at one source (config `source`) and make durable what differs from what is known of it. The sensor "
        "`list_sources` starts it; started by hand it looks at once, whatever the source's cadence."
    ),
)
def observe_source() -> None:
    """Look at one source."""
    look_at_source()
