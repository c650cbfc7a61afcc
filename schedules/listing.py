"""The batch sensor: every source is looked at on its own cadence, each in a run of its own."""

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import dagster as dg

from jobs.observation import SOURCE_TAG, look_config, observe_source
from pipelines.update.observe import Mode, due
from resources.project import LockstepProject
from schedules.requesting import patience, unfinished

_LOOK_SECONDS = 1.0


@dg.sensor(
    job_name=observe_source.name,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
    description=(
        "Looks at every monitored source when `every_seconds` have passed since the last look: what changed is made "
        "durable in `change_events`. One run a source, side by side and at most one at a time for each, so that one "
        "that fails or hangs delays no other. A source that failed is left alone for longer each time."
    ),
)
def list_sources(context: dg.SensorEvaluationContext, project: LockstepProject) -> dg.SensorResult:
    """Request a look at each source that needs one and is not looked at yet."""
    opened = project.open()
    until = time.monotonic() + patience(context.instance)
    while True:
        needed = due(opened, datetime.now(UTC))
        busy = unfinished(context.instance, observe_source.name, SOURCE_TAG) if needed else set()
        chosen = to_look_at(needed, busy)
        if chosen or time.monotonic() >= until:
            break
        time.sleep(_LOOK_SECONDS)
    if not chosen:
        return dg.SensorResult(skip_reason=_reason(needed, busy))
    return dg.SensorResult(run_requests=[_request(source, mode) for source, mode in chosen])


def to_look_at(due_now: Sequence[tuple[str, Mode]], busy: Collection[str]) -> list[tuple[str, Mode]]:
    """Those that are due and not being looked at."""
    return [(source, mode) for source, mode in due_now if source not in busy]


def _request(source: str, mode: Mode) -> dg.RunRequest:
    return dg.RunRequest(job_name=observe_source.name, run_config=look_config(source, mode), tags={SOURCE_TAG: source})


def _reason(needed: Sequence[tuple[str, Mode]], busy: Collection[str]) -> str:
    if not needed:
        return "no source is due"
    names = ", ".join(sorted(busy))
    return f"every source that is due is being looked at: {names}"
