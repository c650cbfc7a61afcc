"""Following one stream: what it announces is made durable, acknowledged, and looked at."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipelines.errors import SourceError
from pipelines.project import Project
from pipelines.sources.base import Lag, Stream
from pipelines.sources.section import SourceSection
from pipelines.update.looking import progress
from pipelines.update.looking.observe import observe


@dataclass(frozen=True, slots=True)
class PumpReport:
    """One turn with one stream. `found`: events for an update to apply, besides those that were announced."""

    source: str
    messages: int
    new: int
    duplicates: int
    rejected: int
    found: int
    lag: Lag
    seconds: float

    @property
    def durable(self) -> int:
        """Rows that the turn added to `change_events`."""
        return self.new + self.found


def pump(project: Project, section: SourceSection, stream: Stream, *, wait_seconds: float, run_id: str) -> PumpReport:
    """Receive a batch, make it durable, acknowledge it, and look at what it announced.

    Acknowledging comes after the commit, and after that is on the disk: what a kill or a power cut leaves in between
    comes again, and adds nothing the second time.

    Args:
        project: whose source it is.
        section: the source's configuration.
        stream: what announces its changes.
        wait_seconds: how long to wait for the first message.
        run_id: recorded with what is appended.

    Raises:
        SourceError: the stream or the source could not be read; it is left alone for a while.
        LakeError: what arrived could not be made durable; it is not acknowledged, and comes again.
    """
    started = time.perf_counter()
    limits = project.config.streams
    log = project.surroundings().events
    try:
        received = stream.receive(limit=limits.batch_events, wait_seconds=wait_seconds)
        events = [event for message in received for event in message.events]
        appended = log.append(events, run_id=run_id)
        if received:
            log.sync()  # also of what is known: who appended it may have died before this
        stream.acknowledge(received)
        lag = stream.lag()
    except SourceError as error:
        progress.stream_failed(project.home, section.name, error)
        raise
    progress.stream_went_well(project.home, section.name)
    found = 0
    if any(event.type != "rejected" for event in events):
        found = observe(project, section.name, run_id=run_id, mode="hints").found
    return PumpReport(
        source=section.name,
        messages=len(received),
        new=appended.new,
        duplicates=appended.duplicates,
        rejected=sum(event.type == "rejected" for event in events),
        found=found,
        lag=lag,
        seconds=time.perf_counter() - started,
    )
