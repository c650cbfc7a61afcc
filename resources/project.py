"""The Dagster resources: a project to read with, and a writer, which holds the writer lock for the whole run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dagster as dg
from pydantic import Field, PrivateAttr

from pipelines.errors import LockstepError
from pipelines.home import Home
from pipelines.project import Project
from resources.aws import aws_client
from resources.observer import current_observer
from resources.step import Retries, Step, StepContext, failure_of, library_step

DEFAULT_CONFIG = "lockstep.yaml"


class LockstepProject(dg.ConfigurableResource["LockstepProject"]):
    """A Lockstep configuration and its data folder, opened when a run starts.

    Loading the definitions reads neither; a wrong configuration fails the run before its first step.
    """

    config_path: str | None = Field(
        default=None, description="Configuration file. Default: LOCKSTEP_CONFIG, else lockstep.yaml here."
    )
    home: str | None = Field(default=None, description="Data folder. Default: LOCKSTEP_HOME, else .lockstep here.")
    max_retries: int = Field(default=3, description="How often a step is tried again after an error that may pass.")
    retry_delay_seconds: float = Field(default=10.0, description="Wait before the first retry; it doubles each time.")

    _project: Project | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[LockstepProject]:
        """Open the project for the length of the run.

        Raises:
            dg.Failure: the configuration is missing or wrong.
        """
        with ExitStack() as stack:
            try:
                self._enter(context, stack)
            except LockstepError as error:
                current_observer().failed("start", error)
                raise failure_of(error, attempts=1) from error
            yield self

    @contextmanager
    def step(self, context: StepContext, name: str) -> Iterator[Step]:
        """Run one library call inside a Dagster step; see `library_step` for what its errors become."""
        retries = Retries(limit=self.max_retries, delay_seconds=self.retry_delay_seconds)
        with library_step(context, self.open(), name, retries) as step:
            yield step

    def open(self) -> Project:
        """The library's project, opened once a run.

        Raises:
            ConfigError: the configuration is missing or wrong.
        """
        if self._project is None:
            path = self.config_path or os.environ.get("LOCKSTEP_CONFIG") or DEFAULT_CONFIG
            home = Home(Path(self.home).absolute()) if self.home else Home.from_environment()
            self._project = Project.open(Path(path), home)
            self._project.aws_client = aws_client
        return self._project

    def _enter(self, context: dg.InitResourceContext, stack: ExitStack) -> None:
        """Do what may fail before the run's first step; what is entered on the stack lasts until its end."""
        del context, stack
        self.open()


class LockstepWriter(LockstepProject):
    """The one writer of a data folder: holds the writer lock from the run's start to its end."""

    full: bool = Field(
        default=False, description="Build the snapshot from nothing and check every row, not only what changed."
    )
    thorough: bool = Field(
        default=False,
        description="Read every document and compare its content, whatever its size and time say. With `full` always.",
    )
    approve_deletions: bool = Field(
        default=False, description="Allow this update to delete more of a source than the guard allows."
    )
    scan: bool = Field(
        default=True,
        description="List every source completely. Off: contact no source, and apply what is in change_events, as the "
        "sensors ask.",
    )
    sources: list[str] = Field(default=[], description="With scan: list only these sources. Empty: all.")

    def _enter(self, context: dg.InitResourceContext, stack: ExitStack) -> None:
        run = context.run
        run_id, purpose = (run.run_id, run.job_name) if run else ("none", "a resource outside a run")
        stack.enter_context(self.open().writer(run_id, purpose))
