"""The batch sensor: every source is looked at on its own cadence, each in a run of its own."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import dagster as dg

from jobs.observation import SOURCE_TAG, look_config, observe_source
from pipelines.update.looking.letters import replay_due
from pipelines.update.looking.observe import Mode, due
from resources.project import LockstepProject
from resources.waiting import first_good
from schedules.requesting import patience, unfinished

_LOOK_SECONDS = 1.0


@dg.sensor(
    job_name=observe_source.name,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
    description=(
        "Looks at every monitored source when `every_seconds` have passed since the last look: what changed is made "
        "durable in `change_events`. One run a source, side by side and at most one at a time for each, so that one "
        "that fails or hangs delays no other. A source that failed is left alone for longer each time. Documents that "
        "failed for a reason that may pass are looked at again when their time has come."
    ),
)
def list_sources(context: dg.SensorEvaluationContext, project: LockstepProject) -> dg.SensorResult:
    """Request a look at each source that needs one and is not looked at yet."""
    opened, instance = project.open(), context.instance
    replay_due(opened, datetime.now(UTC))

    def look() -> list[tuple[str, Mode]]:
        needed = due(opened, datetime.now(UTC))
        return to_look_at(needed, unfinished(instance, observe_source.name, SOURCE_TAG)) if needed else []

    chosen = first_good(look, bool, seconds=patience(instance), pause=_LOOK_SECONDS)
    if not chosen:
        return dg.SensorResult(skip_reason="no source is due, or those that are due are being looked at")
    return dg.SensorResult(run_requests=[_request(source, mode) for source, mode in chosen])


def to_look_at(due_now: Sequence[tuple[str, Mode]], busy: Collection[str]) -> list[tuple[str, Mode]]:
    """Those that are due and not being looked at."""
    return [(source, mode) for source, mode in due_now if source not in busy]


def _request(source: str, mode: Mode) -> dg.RunRequest:
    return dg.RunRequest(job_name=observe_source.name, run_config=look_config(source, mode), tags={SOURCE_TAG: source})
