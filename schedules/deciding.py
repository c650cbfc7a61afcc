"""What the sensors decide, from plain values: whether an update is requested, and what a tick says. Without Dagster."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipelines.update.applying.pending import SourcePending
from resources.following import Told

_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 300.0
_SHOWN_SOURCES = 20
CONFIRMED_WITHIN = timedelta(hours=12)  # so that an index of sources that rest does not look like one that is stuck


@dataclass(frozen=True, slots=True)
class Updates:
    """The updates that the instance knows of. `failures`: in a row, up to the newest that ended. All times are UTC."""

    waiting: int = 0  # requested and not begun: they will see everything that is durable now
    running: int = 0
    failures: int = 0
    failed_at: datetime | None = None
    succeeded_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to request an update, and why or why not."""

    request: bool
    reason: str
    sources: tuple[str, ...] = ()


def decide_update(
    pending: Sequence[SourcePending], updates: Updates, now: datetime, *, dice: float, covered: bool = False
) -> Decision:
    """An update is requested when something can be applied, none is waiting, and the last one did not just fail.

    Args:
        pending: what waits, by source.
        updates: what the instance knows.
        now: the time.
        covered: nothing became durable since an update was last seen waiting, so that one that runs applies it all,
            unless that is more than one update takes.
        dice: between 0 and 1; the wait after failures is that part of a bound that doubles with each of them.
    """
    waiting = [one for one in pending if one.announced or one.found or one.relabelled]
    ready = tuple(one.source for one in waiting if one.to_apply)
    if not waiting and not updates.waiting and not updates.running and _confirmation_due(updates, now):
        return Decision(True, f"nothing has changed for {CONFIRMED_WITHIN}: the index is confirmed")
    if not waiting:
        return Decision(False, "nothing waits to be applied")
    if not ready:
        return Decision(False, "nothing that waits can be applied now: " + describe_pending(waiting))
    if updates.waiting:
        return Decision(False, "an update is requested already: " + describe_pending(waiting))
    if updates.running and covered and not any(one.more for one in waiting):
        return Decision(False, "the update that runs applies what waits: " + describe_pending(waiting))
    if updates.failures and updates.failed_at is not None:
        again = updates.failed_at + timedelta(seconds=backoff_seconds(updates.failures, dice))
        if again > now:
            seconds = (again - now).total_seconds()
            return Decision(
                False, f"{updates.failures} updates in a row failed; the next is requested in {seconds:.0f} s"
            )
    return Decision(True, describe_pending(waiting), ready)


def _confirmation_due(updates: Updates, now: datetime) -> bool:
    return updates.succeeded_at is not None and not updates.failures and now - updates.succeeded_at > CONFIRMED_WITHIN


def backoff_seconds(failures: int, dice: float) -> float:
    """How long to wait after so many failures in a row: half of a doubling bound for certain, the rest by chance."""
    bound = min(_FIRST_WAIT_SECONDS * 2.0 ** (failures - 1), _LONGEST_WAIT_SECONDS)
    return bound * (0.5 + 0.5 * dice)


def steady_dice(failures: int, failed_at: datetime | None) -> float:
    """Chance that stays the same while nothing new happens, so that every tick comes to the same answer."""
    return random.Random(f"{failures} {failed_at}").random()  # noqa: S311 - jitter, no secret


def describe_pending(pending: Sequence[SourcePending]) -> str:
    """One phrase a source: how many events wait, for how long, and what they wait for."""
    return _joined([_pending(one) for one in pending])


def describe_told(told: Sequence[Told]) -> str:
    """One phrase a source: what its stream brought, what is left in it, or why it cannot be followed."""
    return _joined([_told(one) for one in told]) or "no source of this kind is configured and monitored"


def _pending(one: SourcePending) -> str:
    counts = [f"{one.found:,} to apply"] if one.found else []
    counts += [f"{one.announced:,} to look at"] if one.announced else []
    counts += ["other access rules"] if one.relabelled else []
    text = f"{one.source}: {', '.join(counts) or 'nothing'}"
    if one.oldest_seconds is not None:
        text += f", the oldest for {one.oldest_seconds:.0f} s"
    if one.held is not None:
        text += f"; held: {one.held}"
    return text if one.resting_until is None else f"{text}; left alone until {one.resting_until:%H:%M:%S} UTC"


def _told(one: Told) -> str:
    if not one.streams:
        return f"{one.source}: nothing announces its changes; it is listed"
    counts = [f"{one.new:,} new"]
    counts += [f"{one.duplicates:,} known before"] if one.duplicates else []
    counts += [f"{one.rejected:,} not understood"] if one.rejected else []
    counts += [f"{one.lag.messages:,} left in the stream"] if one.lag.messages else []
    text = f"{one.source}: {', '.join(counts)}"
    if one.error is None:
        return text
    again = f" (again at {one.retry_at:%H:%M:%S} UTC)" if one.retry_at else ""
    return f"{text}; not followed: {one.error}{again}"


def _joined(phrases: list[str]) -> str:
    more = len(phrases) - _SHOWN_SOURCES
    return "; ".join(phrases[:_SHOWN_SOURCES]) + (f"; and {more} more" if more > 0 else "")
