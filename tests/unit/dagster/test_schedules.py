"""What the sensors decide, from plain values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from pipelines.sources.base import Lag
from pipelines.update.applying.pending import SourcePending
from resources.following import Told
from schedules.deciding import (
    CONFIRMED_WITHIN,
    Updates,
    backoff_seconds,
    decide_update,
    describe_pending,
    describe_told,
    steady_dice,
)
from schedules.listing import to_look_at
from schedules.requesting import Claim, summarise

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
QUEUED, STARTED = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED
FAILED, DONE, CANCELED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED


def waits(**values: Any) -> SourcePending:
    fields = {"announced": 0, "found": 0, "oldest_seconds": None, "held": None, "resting_until": None}
    return SourcePending(**{"source": "handbook", "relabelled": False, **fields, **values})


def test_something_to_apply_is_applied_at_once_and_named() -> None:
    decision = decide_update([waits(found=3, oldest_seconds=2.4), waits(source="wiki")], Updates(), NOW, dice=0.5)
    assert decision.request
    assert decision.sources == ("handbook",)
    assert "handbook: 3 to apply, the oldest for 2 s" in decision.reason


def test_other_access_rules_alone_are_something_to_apply() -> None:
    assert decide_update([waits(relabelled=True)], Updates(), NOW, dice=0.5).request


@pytest.mark.parametrize(
    ("pending", "updates", "why"),
    [
        ([], Updates(), "nothing waits"),
        ([waits()], Updates(), "nothing waits"),
        ([waits(announced=2)], Updates(), "2 to look at"),
        ([waits(found=40, held="40 of 50 documents would be deleted")], Updates(), "would be deleted"),
        ([waits(found=1)], Updates(waiting=1), "requested already"),
        ([waits(found=1)], Updates(waiting=1, running=1), "requested already"),
    ],
    ids=["no source", "nothing", "not looked at yet", "held by the guard", "one is queued", "queued behind one"],
)
def test_no_update_is_requested_and_the_tick_says_why(pending: list[SourcePending], updates: Updates, why: str) -> None:
    decision = decide_update(pending, updates, NOW, dice=0.5)
    assert not decision.request
    assert why in decision.reason


def test_one_may_run_while_the_next_is_requested() -> None:
    assert decide_update([waits(found=1)], Updates(running=1), NOW, dice=0.5).request


def test_what_the_running_update_applies_is_not_requested_a_second_time() -> None:
    decision = decide_update([waits(found=1)], Updates(running=1), NOW, dice=0.5, covered=True)
    assert not decision.request
    assert "the update that runs applies" in decision.reason
    assert decide_update([waits(found=1)], Updates(), NOW, dice=0.5, covered=True).request


def test_where_more_was_found_than_one_update_takes_the_next_is_requested_while_the_first_runs() -> None:
    decision = decide_update([waits(found=30_000, more=True)], Updates(running=1), NOW, dice=0.5, covered=True)
    assert decision.request


def test_one_source_that_is_held_keeps_no_other_from_being_applied() -> None:
    decision = decide_update([waits(found=9, held="ask"), waits(source="wiki", found=1)], Updates(), NOW, dice=0.5)
    assert decision.sources == ("wiki",)


@pytest.mark.parametrize("failures", [1, 2, 5, 40])
def test_after_failures_the_next_update_waits_longer_and_then_comes(failures: int) -> None:
    wait = timedelta(seconds=backoff_seconds(failures, 0.7))
    updates = Updates(failures=failures, failed_at=NOW)
    early = decide_update([waits(found=1)], updates, NOW + wait * 0.99, dice=0.7)
    assert not early.request
    assert "in a row failed" in early.reason
    assert decide_update([waits(found=1)], updates, NOW + wait * 1.01, dice=0.7).request


def test_the_wait_grows_to_five_minutes_and_no_further_and_depends_on_chance() -> None:
    assert [backoff_seconds(n, 1.0) for n in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert backoff_seconds(1_000, 1.0) == 300.0
    assert backoff_seconds(3, 0.0) == 10.0
    assert steady_dice(2, NOW) == steady_dice(2, NOW) != steady_dice(2, NOW + timedelta(seconds=1))


def test_an_index_whose_sources_rest_is_confirmed_now_and_then() -> None:
    long_ago = Updates(succeeded_at=NOW - CONFIRMED_WITHIN - timedelta(seconds=1))
    assert decide_update([waits()], long_ago, NOW, dice=0.5).request
    assert not decide_update([waits()], Updates(succeeded_at=NOW), NOW, dice=0.5).request


def test_failures_count_back_to_the_last_success_and_runs_that_wait_or_run_are_told_apart() -> None:
    runs = [(QUEUED, None), (STARTED, None), (FAILED, 30.0), (FAILED, 20.0), (DONE, 10.0), (FAILED, 5.0)]
    found = summarise(runs)
    assert (found.waiting, found.running, found.failures) == (1, 1, 2)
    assert found.failed_at == datetime.fromtimestamp(30, UTC)
    assert found.succeeded_at == datetime.fromtimestamp(10, UTC)


def test_a_run_that_somebody_stopped_is_no_failure() -> None:
    assert summarise([(CANCELED, 30.0), (FAILED, 20.0)]).failures == 0


def test_a_source_that_is_looked_at_is_not_looked_at_a_second_time() -> None:
    assert to_look_at([("wiki", "poll"), ("handbook", "listing")], {"wiki"}) == [("handbook", "listing")]


def test_of_two_ticks_at_once_one_asks() -> None:
    claim = Claim()
    assert [claim.take(what, 60) for what in ("home", "home", "another home")] == [True, False, True]


def test_a_tick_tells_what_each_source_brought_and_why_one_is_not_followed() -> None:
    told = [
        Told("topic", new=7, duplicates=2, rejected=1, lag=Lag(1_200)),
        Told("bucket", error="SourceError: reading queue q: denied", retry_at=NOW),
        Told("folder", streams=False),
    ]
    text = describe_told(told)
    assert "topic: 7 new, 2 known before, 1 not understood, 1,200 left in the stream" in text
    assert "bucket: 0 new; not followed: SourceError: reading queue q: denied (again at 05:06:07 UTC)" in text
    assert "folder: nothing announces its changes" in text


def test_a_hundred_sources_are_told_in_a_text_that_can_be_read() -> None:
    text = describe_pending([waits(source=f"s{n}", found=1) for n in range(100)])
    assert text.endswith("and 80 more")
