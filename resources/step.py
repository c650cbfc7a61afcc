"""One library call inside one Dagster step: its progress, its report, and what its errors mean to Dagster.

This is the only place where the library's error tree meets Dagster's retries.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import dagster as dg

from pipelines.errors import DocumentError, LockstepError, ManifestMoved, MassDeletionRefused, WriterBusy
from pipelines.project import Project
from resources.observer import RunObserver, current_observer

StepContext = dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext
_T = TypeVar("_T")

_LOG_EVERY_SECONDS = 5.0
_LONGEST_DELAY_SECONDS = 300.0

# A retry of the step alone cannot cure these, although another run may.
_NEEDS_ANOTHER_RUN = (ManifestMoved, WriterBusy)

_IN_THE_UI: tuple[tuple[type[LockstepError], str], ...] = (
    (
        MassDeletionRefused,
        "If the deletions are right: open the job's launchpad, set `resources.writer.config.approve_deletions: true` "
        "and launch it once.",
    ),
    (ManifestMoved, "Launch the whole job again, not this step of it."),
)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a step is tried again after an error that may pass; the delay doubles each time."""

    limit: int
    delay_seconds: float

    def delay(self, attempt: int) -> float:
        """Seconds to wait after that attempt (0-based)."""
        return float(min(self.delay_seconds * 2**attempt, _LONGEST_DELAY_SECONDS))


class Step:
    """What an asset's body works with: the open project, the run's id, a progress callback, a place for the report."""

    def __init__(self, context: StepContext, project: Project, name: str, observer: RunObserver) -> None:
        self.project = project
        self.run_id = context.run.run_id
        self.name = name
        self._log = context.log
        self._observer = observer
        self._logged_at = time.monotonic()

    def progress(self, done: int, total: int) -> None:
        """Tell the observer at once, and the run's log every few seconds."""
        self._observer.progress(self.name, done, total)
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_SECONDS:
            self._logged_at = now
            share = f" ({done / total:.0%})" if total else ""
            self._log.info(f"{self.name}: {done:,} of {total:,}{share}")

    def done(self, report: _T) -> _T:
        """Hand the library's report to the observer, and back to the caller."""
        self._observer.report(self.name, report)
        return report


@contextmanager
def library_step(context: StepContext, project: Project, name: str, retries: Retries) -> Iterator[Step]:
    """Run one library call; an error that may pass asks Dagster for a retry, any other fails the step with its text.

    Raises:
        dg.RetryRequested: the error is transient and attempts are left.
        dg.Failure: it is not, or none are left; the metadata names the document and the next step.
    """
    observer = current_observer()
    started = time.perf_counter()
    try:
        yield Step(context, project, name, observer)
    except LockstepError as error:
        observer.failed(name, error)
        _raise_for_dagster(context, error, retries)
    finally:
        observer.ended(name, time.perf_counter() - started)


def _raise_for_dagster(context: StepContext, error: LockstepError, retries: Retries) -> NoReturn:
    op_context = context if isinstance(context, dg.OpExecutionContext) else context.op_execution_context
    attempt = op_context.retry_number
    if error.transient and not isinstance(error, _NEEDS_ANOTHER_RUN) and attempt < retries.limit:
        delay = retries.delay(attempt)
        context.log.warning(f"attempt {attempt + 1} of {retries.limit + 1} failed, again in {delay:.0f} s: {error}")
        raise dg.RetryRequested(max_retries=retries.limit, seconds_to_wait=delay) from error
    raise failure_of(error, attempts=attempt + 1) from error


def failure_of(error: LockstepError, *, attempts: int) -> dg.Failure:
    """The error as Dagster shows it: the message as description, and what an operator needs as metadata."""
    metadata: dict[str, dg.MetadataValue] = {
        "error_class": dg.MetadataValue.text(type(error).__name__),
        "message": dg.MetadataValue.md(str(error).replace("\n", "\n\n")),
        "attempts": dg.MetadataValue.int(attempts),
        "another_run_may_help": dg.MetadataValue.bool(error.transient),
    }
    if isinstance(error, DocumentError) and error.uri:
        metadata["document"] = dg.MetadataValue.text(error.uri)
    for kind, advice in _IN_THE_UI:
        if isinstance(error, kind):
            metadata["next_step"] = dg.MetadataValue.md(advice)
    return dg.Failure(f"{type(error).__name__}: {error}", metadata=metadata, allow_retries=False)
