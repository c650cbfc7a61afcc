"""Requesting an update from a sensor: what the instance knows of updates, and that one tick at a time asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import dagster as dg

from jobs.updates import incremental_update, nightly_rebuild
from pipelines.lake.events import TABLE as EVENTS
from pipelines.project import Project
from pipelines.update.applying.pending import SourcePending
from schedules.deciding import Decision, Updates, decide_update, steady_dice

ONLY_WHAT_IS_DURABLE = {
    "resources": {"writer": {"config": {"scan": False}}},
    "loggers": {"console": {"config": {"log_level": "WARNING"}}},  # the run's log in the UI is complete all the same
}
"""Run configuration of an update that contacts no source: looks and streams have done that."""

_WAITING = {dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING}
_RUNNING = {dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING}
_REMEMBERED_RUNS = 12
_CLAIM_SECONDS = 4.0  # until a requested run is in the queue, where every tick sees it
_BUSY_EVERY_SECONDS = 60.0
_IDLE_EVERY_SECONDS = 600.0
_LONG_POLL_SECONDS = 9.0  # the daemon begins ticks every 5 s: one that ends just before leaves a gap of 1 s
_SHORT_POLL_SECONDS = 0.2


# By data folder: the version of the log that an update which was still waiting will see. Lost with the process, which
# costs one update with nothing to do.
_covered: dict[Path, int] = {}


class Claim:
    """Lets one of several ticks do something, and then nobody for a while. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[object, float] = {}

    def take(self, what: object, seconds: float) -> bool:
        """Whether the caller may do it; from then on nobody may for so long."""
        now = time.monotonic()
        with self._lock:
            if self._until.get(what, 0.0) > now:
                return False
            self._until[what] = now + seconds
            return True


@lru_cache(maxsize=1)
def claims() -> Claim:
    """Those of this process, in which all sensors run."""
    return Claim()


def standing_due(project: Project, pending: Sequence[SourcePending]) -> bool:
    """Whether the queue's figures are to be recorded: each minute while something waits, else now and then."""
    busy = any(one.announced or one.found or one.resting_until for one in pending)
    seconds = _BUSY_EVERY_SECONDS if busy else _IDLE_EVERY_SECONDS
    return claims().take((project.home.root, busy), seconds)


def unfinished(instance: dg.DagsterInstance, job_name: str, tag: str) -> set[str]:
    """Values that a tag has in the runs of a job that wait or run."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=list(_WAITING | _RUNNING)))
    return {run.tags[tag] for run in runs if tag in run.tags}


def patience(instance: dg.DagsterInstance) -> float:
    """Seconds that a tick may wait for news: without threads of their own, sensors must not make each other wait."""
    return _LONG_POLL_SECONDS if instance.get_sensor_settings().get("use_threads") else _SHORT_POLL_SECONDS


def updates_of(instance: dg.DagsterInstance) -> Updates:
    """What the instance knows of updates, the newest first."""
    records: list[dg.RunRecord] = []
    for job in (incremental_update.name, nightly_rebuild.name):
        records += instance.get_run_records(dg.RunsFilter(job_name=job), limit=_REMEMBERED_RUNS)
    records.sort(key=lambda record: record.create_timestamp, reverse=True)
    return summarise([(record.dagster_run.status, record.end_time) for record in records])


def summarise(runs: Sequence[tuple[dg.DagsterRunStatus, float | None]]) -> Updates:
    """Runs as (status, end in seconds since the epoch), the newest first, in figures."""
    ended = [(status, end) for status, end in runs if status not in _WAITING | _RUNNING]
    failed: list[float | None] = []
    for status, end in ended:
        if status is not dg.DagsterRunStatus.FAILURE:
            break
        failed.append(end)
    succeeded = next((end for status, end in ended if status is dg.DagsterRunStatus.SUCCESS), None)
    return Updates(
        waiting=sum(status in _WAITING for status, _ in runs),
        running=sum(status in _RUNNING for status, _ in runs),
        failures=len(failed),
        failed_at=_time(failed[0]) if failed else None,
        succeeded_at=_time(succeeded),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def decide(instance: dg.DagsterInstance, project: Project, pending: Sequence[SourcePending]) -> Decision:
    """Whether this tick requests an update now."""
    root, version, updates = project.home.root, project.lake.version(EVENTS), updates_of(instance)
    dice = steady_dice(updates.failures, updates.failed_at)
    covered = _covered.get(root) == version
    decision = decide_update(pending, updates, datetime.now(UTC), dice=dice, covered=covered)
    if decision.request and not claims().take(root, _CLAIM_SECONDS):
        return Decision(False, "another sensor has just requested an update")
    if decision.request or updates.waiting:
        _covered[root] = version
    return decision


def seen_version(project: Project) -> str:
    """The cursor of a sensor: how far `change_events` was when it looked. It tells people, and decides nothing."""
    return f"change_events, version {project.lake.version(EVENTS)}"


def update_request(decision: Decision, sensor: str, why: str) -> dg.RunRequest:
    """A run that applies what is durable; without a key, because Dagster remembers those for ever."""
    tags = {"lockstep/sensor": sensor, "lockstep/why": why, "lockstep/sources": ", ".join(decision.sources)}
    return dg.RunRequest(job_name=incremental_update.name, run_config=ONLY_WHAT_IS_DURABLE, tags=tags)
