"""What waits: announced and not looked at, or found and not applied, by source, and what holds it up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.events import ANNOUNCED, FOUND
from pipelines.project import Project
from pipelines.update.applying import approvals
from pipelines.update.applying.found import labels_fingerprint
from pipelines.update.looking import progress

_NARROW = ["sequence", "received_at"]


@dataclass(frozen=True, slots=True)
class SourcePending:
    """One source's queue. `held`: why an update would not apply it now; None when it would."""

    source: str
    announced: int  # and not looked at
    found: int  # and not applied
    oldest_seconds: float | None  # since the oldest of both was heard of
    held: str | None
    resting_until: datetime | None  # its last contacts failed; it is left alone until then
    relabelled: bool  # its access rules are not those that are applied
    left: int = 0  # of those found, what the last update left to the next one
    more: bool = False  # an update that a sensor asks for does not apply all that was found

    @property
    def to_apply(self) -> bool:
        """Whether an update would find something to do."""
        return (self.found > 0 and self.held is None) or self.relabelled


def pending(project: Project) -> tuple[SourcePending, ...]:
    """The queue of every source; reads only what is newer than what was applied."""
    now = datetime.now(UTC)
    asked = {request.source: request for request in approvals.requests(project)}
    at_most = project.config.streams.max_events_per_update
    found = []
    fold_case = project.config.principals.fold_case
    for section in project.config.sources:
        state = progress.read(project.home, section.name)
        announced = project.events.after(section.name, state.observed_sequence, ANNOUNCED, columns=_NARROW)
        waiting = project.events.after(section.name, state.applied_sequence, FOUND, columns=_NARROW)
        request = asked.get(section.name)
        held = None
        if request is not None and request.approved_by is None:
            held = (
                f"{request.count:,} of {request.total:,} documents would be deleted; "
                f"`lockstep approve {section.name}` allows that"
            )
        found.append(
            SourcePending(
                source=section.name,
                announced=len(announced),
                found=len(waiting),
                oldest_seconds=_oldest(announced, waiting, now),
                held=held,
                resting_until=state.retry_at if state.resting(now) else None,
                relabelled=bool(state.labels) and state.labels != labels_fingerprint(section, fold_case=fold_case),
                left=min(state.left, len(waiting)),
                more=len(waiting) > at_most,
            )
        )
    return tuple(found)


def _oldest(announced: pa.Table, waiting: pa.Table, now: datetime) -> float | None:
    first = pc.min(pa.concat_tables([announced, waiting])["received_at"]).as_py()
    return None if first is None else max(0.0, (now - first).total_seconds())
