"""Who watches a run from inside its own process: a terminal that shows progress and wants the library's reports.

The Dagster UI needs none of this; it reads the run's events. An observer belongs to the process that executes a
job, not to the run's configuration, and so it is no Dagster resource.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from pipelines.errors import LockstepError


class RunObserver(Protocol):
    """Is told what the steps of a run do, in their order. Called often: must return at once."""

    def progress(self, step: str, done: int, total: int) -> None:
        """A long step has done that much of its work."""

    def report(self, step: str, report: object) -> None:
        """A step's library call returned that record."""

    def failed(self, step: str, error: LockstepError) -> None:
        """A step's library call raised that error; it may be tried again."""

    def ended(self, step: str, seconds: float) -> None:
        """A step's library call is over, well or not, after that long."""


class NobodyWatches:
    """The observer of runs that the UI or a schedule started."""

    def progress(self, step: str, done: int, total: int) -> None:
        """Ignore it."""

    def report(self, step: str, report: object) -> None:
        """Ignore it."""

    def failed(self, step: str, error: LockstepError) -> None:
        """Ignore it."""

    def ended(self, step: str, seconds: float) -> None:
        """Ignore it."""


_CURRENT: ContextVar[RunObserver] = ContextVar("lockstep_run_observer", default=NobodyWatches())  # noqa: B039 - stateless


@contextmanager
def observed_by(observer: RunObserver) -> Iterator[None]:
    """Let an observer watch the jobs that are executed inside the block, in this thread."""
    token = _CURRENT.set(observer)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_observer() -> RunObserver:
    """The observer of this run."""
    return _CURRENT.get()
