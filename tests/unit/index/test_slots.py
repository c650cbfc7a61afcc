from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipelines.index.slots import idle_slot, slot_names


@dataclass(frozen=True)
class Held:
    collection: str
    sequence: int
    status: str


def test_slots_are_named_after_the_index() -> None:
    assert slot_names("handbook", 2) == ("handbook__a", "handbook__b")
    assert slot_names("handbook", 3) == ("handbook__a", "handbook__b", "handbook__c")


@pytest.mark.parametrize(
    ("live", "idle"),
    [(None, "i__a"), ("i__a", "i__b"), ("i__b", "i__a"), ("i__gone", "i__a")],
    ids=["nothing live", "a live", "b live", "live slot of another layout"],
)
def test_of_two_slots_the_one_that_is_not_live_is_idle(live: str | None, idle: str) -> None:
    assert idle_slot("i", live, slots=2) == idle


def test_of_three_slots_the_one_to_roll_back_to_is_kept() -> None:
    history = [Held("i__a", 1, "retired"), Held("i__b", 2, "retired"), Held("i__c", 3, "live")]
    assert idle_slot("i", "i__c", slots=3, history=history) == "i__a"
    assert idle_slot("i", "i__c", slots=3, history=reversed(history)) == "i__a"


def test_after_a_rollback_the_newest_snapshot_is_kept_too() -> None:
    history = [Held("i__a", 1, "retired"), Held("i__b", 2, "live"), Held("i__c", 3, "retired")]
    assert idle_slot("i", "i__b", slots=3, history=history) == "i__a"


def test_a_slot_whose_candidate_was_rejected_is_used_first() -> None:
    history = [Held("i__a", 1, "retired"), Held("i__b", 2, "live"), Held("i__c", 3, "rejected")]
    assert idle_slot("i", "i__b", slots=3, history=history) == "i__c"


def test_a_slot_that_was_never_used_is_used_first() -> None:
    history = [Held("i__a", 1, "retired"), Held("i__b", 2, "live")]
    assert idle_slot("i", "i__b", slots=3, history=history) == "i__c"
