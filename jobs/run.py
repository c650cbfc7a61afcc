"""Executing a job in this process, as the command line does: the same jobs, recorded where the UI shows them.

Nothing here decides what a job does; it opens the instance, hands over configuration, and collects what happened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import dagster as dg
import psutil

from pipelines.errors import LockstepError
from pipelines.home import Home
from resources.instance import open_instance
from resources.observer import observed_by

if TYPE_CHECKING:
    from dagster_shared.error import SerializableErrorInfo

JobName: TypeAlias = Literal[
    "incremental_update", "nightly_rebuild", "rollback", "verify", "maintenance", "replay_dead_letters"
]
OnProgress: TypeAlias = Callable[[str, int, int], None]

# Process id and start of the command that executes the run, so that a run whose process was killed can be told apart.
_PROCESS_TAG = "lockstep/command_line"


@dataclass(frozen=True, slots=True)
class FailedCheck:
    """A check that did not pass. A `blocking` one stopped what comes after it."""

    asset: str
    name: str
    description: str
    blocking: bool
    warning: bool


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What one executed job did.

    `reports` holds the library's record of each step that ended well, by the step's name (`source_changes`, `elements`,
    `documents`, `chunks`, `embeddings`, `index_snapshots`, `gates`, `live_index`, `rollback`, `verify`, and
    `TABLE_expectations` for each table that has any).
    """

    job: str
    run_id: str
    success: bool
    reports: Mapping[str, Any]
    step_seconds: Mapping[str, float]  # in the library, by step: retries and failed attempts included
    failed_checks: tuple[FailedCheck, ...]
    error: LockstepError | None  # the first one that the library raised on purpose, after the last retry
    message: str | None  # why the run failed, in words; None when it succeeded
    interrupted: bool  # by Ctrl-C or a termination signal; the next run goes on where this one stopped
    open_seconds: float  # opening the instance, Dagster's own start
    run_seconds: float  # executing the job, the library's work included


@dataclass(slots=True)
class _Collector:
    """The observer of one run in this process."""

    on_progress: OnProgress | None
    reports: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, LockstepError] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def progress(self, step: str, done: int, total: int) -> None:
        if self.on_progress is not None:
            self.on_progress(step, done, total)

    def report(self, step: str, report: object) -> None:
        self.reports[step] = report
        self.errors.pop(step, None)  # a retry cured it

    def failed(self, step: str, error: LockstepError) -> None:
        self.errors[step] = error

    def ended(self, step: str, seconds: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds


def run_job(
    definitions: dg.Definitions,
    name: JobName,
    config_path: Path,
    home: Home,
    *,
    writer: Mapping[str, Any] | None = None,
    ops: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    log_level: str = "CRITICAL",
) -> JobOutcome:
    """Execute a job in this process with the data folder's persistent instance.

    Args:
        definitions: the code location, `pipelines.definitions.defs`.
        name: which job.
        config_path: Lockstep's configuration file.
        home: the data folder.
        writer: fields of `LockstepWriter`, such as `approve_deletions`.
        ops: configuration of a job's own ops, as Dagster takes it.
        on_progress: called with (step, done, total), often.
        log_level: of Dagster's own lines on standard error; the run's log in the instance is always complete.
    """
    job = definitions.resolve_job_def(name)
    collector = _Collector(on_progress)
    started = time.perf_counter()
    with open_instance(home) as instance:
        _close_abandoned_runs(instance)
        opened = time.perf_counter()
        with observed_by(collector):
            result = job.execute_in_process(
                run_config=_run_config(job, config_path, home, writer or {}, ops or {}, log_level),
                instance=instance,
                raise_on_error=False,
                tags={_PROCESS_TAG: _this_process()},
            )
        ended = time.perf_counter()
    failed_checks = _failed_checks(result)
    interrupted = not result.success and _was_interrupted(result)
    error = next(iter(collector.errors.values()), None)
    return JobOutcome(
        job=name,
        run_id=result.run_id,
        success=result.success,
        reports=collector.reports,
        step_seconds=collector.seconds,
        failed_checks=failed_checks,
        error=error,
        message=None if result.success else _why(result, error, failed_checks, interrupted=interrupted),
        interrupted=interrupted,
        open_seconds=opened - started,
        run_seconds=ended - opened,
    )


def _run_config(
    job: dg.JobDefinition,
    config_path: Path,
    home: Home,
    writer: Mapping[str, Any],
    ops: Mapping[str, Any],
    log_level: str,
) -> dict[str, Any]:
    """The job's own configuration with this installation's places in it, so that the UI can launch the run again."""
    places = {"config_path": str(config_path.absolute()), "home": str(home.root)}
    own = (job.run_config or {}).get("resources", {}).get("writer", {}).get("config", {})
    fields = {"project": places, "writer": {**places, **own, **writer}}
    needed = job.required_resource_keys
    return {
        "resources": {key: {"config": value} for key, value in fields.items() if key in needed},
        "loggers": {"console": {"config": {"log_level": log_level}}},
        **({"ops": dict(ops)} if ops else {}),
    }


def _failed_checks(result: dg.ExecuteInProcessResult) -> tuple[FailedCheck, ...]:
    return tuple(
        FailedCheck(
            asset=evaluation.asset_key.to_user_string(),
            name=evaluation.check_name,
            description=evaluation.description or "",
            blocking=bool(evaluation.blocking),
            warning=evaluation.severity is dg.AssetCheckSeverity.WARN,
        )
        for evaluation in result.get_asset_check_evaluations()
        if not evaluation.passed
    )


def _why(
    result: dg.ExecuteInProcessResult,
    error: LockstepError | None,
    checks: tuple[FailedCheck, ...],
    *,
    interrupted: bool,
) -> str:
    if interrupted:
        return "the run was interrupted; the live snapshot stays, and the next update goes on where this one stopped"
    if error is not None:
        return str(error)
    stopped = [check for check in checks if check.blocking and not check.warning]
    if stopped:
        told = "; ".join(f"{check.asset}: {check.name}: {check.description}" for check in stopped)
        return f"the checks before promotion did not pass, and the live snapshot stays: {told}"
    for failure in _step_errors(result):
        while failure.cause is not None:
            failure = failure.cause
        return f"unexpected: {failure.message.strip()} (run {result.run_id}; its log in the UI shows where)"
    return f"run {result.run_id} failed; its log in the UI (`make ui`) tells more"


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    return any(error.cls_name == "DagsterExecutionInterruptedError" for error in _step_errors(result))


def _step_errors(result: dg.ExecuteInProcessResult) -> Iterator[SerializableErrorInfo]:
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error is not None:
            yield event.step_failure_data.error


def _this_process() -> str:
    return f"{os.getpid()} {psutil.Process().create_time():.2f}"


def _close_abandoned_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs of the command line as failed whose process is gone, so that the UI does not show them as running."""
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    for run in instance.get_runs(unfinished):
        tag = run.tags.get(_PROCESS_TAG)
        if tag is not None and not _alive(tag):
            instance.report_run_failed(
                run,
                f"Process {tag.split()[0]} ended without a word (killed?). The next update goes on where it stopped.",
            )


def _alive(tag: str) -> bool:
    number, created = tag.split()
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" == created
    except psutil.NoSuchProcess:
        return False
