"""The sensor of the queue itself: whatever made an event durable, somebody sees that it is applied."""

import time
from collections.abc import Sequence

import dagster as dg

from assets.freshness import standing_checks
from assets.queue import queue_observation
from jobs.updates import incremental_update
from pipelines.lake.events import TABLE as EVENTS
from pipelines.project import Project
from pipelines.update.applying.approvals import requests
from pipelines.update.applying.pending import SourcePending, pending
from pipelines.update.upkeep.freshness import freshness
from resources.project import LockstepProject
from resources.waiting import first_good
from schedules.deciding import Decision
from schedules.requesting import decide, patience, seen_version, standing_due, update_request

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
    decision = first_good(
        Queue(context.instance, opened).decision,
        lambda found: found.request,
        seconds=patience(context.instance),
        pause=_LOOK_SECONDS,
    )
    waiting = pending(opened)
    events = standing(opened, waiting) if standing_due(opened, waiting) else []
    cursor = seen_version(opened)
    if not decision.request:
        return dg.SensorResult(skip_reason=decision.reason, cursor=cursor, asset_events=events)
    request = update_request(decision, "pending_changes", decision.reason)
    return dg.SensorResult(run_requests=[request], cursor=cursor, asset_events=events)


def standing(project: Project, waiting: Sequence[SourcePending]) -> list[dg.AssetObservation | dg.AssetCheckEvaluation]:
    """The queue's figures, and the checks that change without an update."""
    return [queue_observation(waiting), *standing_checks(freshness(project), requests(project))]


class Queue:
    """What waits, looked at anew when the table has changed, and now and then."""

    def __init__(self, instance: dg.DagsterInstance, project: Project) -> None:
        self._instance, self._project = instance, project
        self._known: tuple[int, float, Decision] | None = None

    def decision(self) -> Decision:
        """Whether to request an update now."""
        version, now = self._project.lake.version(EVENTS), time.monotonic()
        if self._known is not None and self._known[0] == version and now - self._known[1] < _LOOK_AGAIN_SECONDS:
            return self._known[2]
        decision = decide(self._instance, self._project, pending(self._project))
        self._known = version, now, decision
        return decision
