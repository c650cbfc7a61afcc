"""The sensor of the queue itself: whatever made an event durable, somebody sees that it is applied."""

import time

import dagster as dg

from assets.queue import queue_observation
from jobs.updates import incremental_update
from pipelines.lake.events import TABLE as EVENTS
from pipelines.update.pending import pending
from pipelines.update.project import Project
from resources.project import LockstepProject
from schedules.deciding import Decision
from schedules.requesting import decide, observation_claims, patience, seen_version, update_request

_LOOK_SECONDS = 0.25
_LOOK_AGAIN_SECONDS = 2.0  # also without a new event: what was held may be released, and a backoff may be over


@dg.sensor(
    job_name=incremental_update.name,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
    description=(
        "Watches the table `change_events`, and requests an update when something in it can be applied: found by a "
        "look at a source, or left by a process that died. At most one update waits; after failures it is requested "
        "less and less often. Switched off, changes are still made durable, and wait."
    ),
)
def pending_changes(context: dg.SensorEvaluationContext, project: LockstepProject) -> dg.SensorResult:
    """Wait until something can be applied, and request an update."""
    opened = project.open()
    decision = _wait(context.instance, opened, until=time.monotonic() + patience(context.instance))
    events = [queue_observation(pending(opened))] if observation_claims().take(opened.home.root) else []
    cursor = seen_version(opened)
    if not decision.request:
        return dg.SensorResult(skip_reason=decision.reason, cursor=cursor, asset_events=events)
    request = update_request(decision, "pending_changes", decision.reason)
    return dg.SensorResult(run_requests=[request], cursor=cursor, asset_events=events)


def _wait(instance: dg.DagsterInstance, project: Project, *, until: float) -> Decision:
    """The first decision that requests an update, else the last one before the time is up."""
    while True:
        version, looked_at = project.lake.version(EVENTS), time.monotonic()
        decision = decide(instance, project, pending(project))
        if decision.request:
            return decision
        while project.lake.version(EVENTS) == version and time.monotonic() - looked_at < _LOOK_AGAIN_SECONDS:
            if time.monotonic() >= until:
                return decision
            time.sleep(_LOOK_SECONDS)
