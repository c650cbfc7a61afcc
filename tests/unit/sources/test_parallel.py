"""Documents fetched side by side: bounded in number and bytes, and an error of the source ends it."""

from __future__ import annotations

import threading

import pytest

from pipelines.errors import RateLimited
from pipelines.sources.base import Fetched
from pipelines.sources.parallel import Answer, Room, side_by_side

PATIENCE_SECONDS = 10


def fetched(uri: str, content: bytes = b"x") -> Fetched:
    return Fetched(uri, content, len(content))


def test_every_uri_is_answered_once_and_no_more_than_allowed_are_under_way() -> None:
    lock, under_way, most = threading.Lock(), 0, 0
    met = threading.Barrier(4)

    def fetch(uri: str, room: Room) -> tuple[Answer, int]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        met.wait(PATIENCE_SECONDS)  # breaks, and fails the test, unless four are under way together
        with lock:
            under_way -= 1
        return fetched(uri), 0

    uris = [str(n) for n in range(40)]
    found = [answer.uri for answer in side_by_side(uris, fetch, at_once=4, name="t")]
    assert sorted(found) == sorted(uris)
    assert most == 4


def test_one_that_is_slow_holds_no_other_up() -> None:
    others_came = threading.Event()

    def fetch(uri: str, room: Room) -> tuple[Answer, int]:
        if uri == "slow":
            assert others_came.wait(PATIENCE_SECONDS)
        return fetched(uri), 0

    found = []
    for answer in side_by_side(["slow", *"abcdef"], fetch, at_once=2, name="t"):
        found.append(answer.uri)
        if len(found) == 6:
            others_came.set()
    assert found == [*"abcdef", "slow"]


def test_uris_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def uris():
        for number in range(1_000):
            taken.append(number)
            yield str(number)

    answers = side_by_side(uris(), lambda uri, room: (fetched(uri), 0), at_once=3, name="t")
    next(answers)
    answers.close()
    assert len(taken) <= 6


def test_contents_that_nobody_has_taken_yet_are_held_up_to_a_bound_and_a_larger_one_alone() -> None:
    room = Room(100)
    held: list[int] = []
    lock = threading.Lock()

    def fetch(uri: str, _: Room) -> tuple[Answer, int]:
        size = int(uri)
        room.take(size)
        with lock:
            held.append(room._taken)
        return fetched(uri, b"x" * size), size

    sizes = ["40", "40", "40", "500", "40", "90", "10"]
    found = []
    for answer in side_by_side(sizes, fetch, at_once=7, name="t"):
        found.append(answer.uri)
        assert isinstance(answer, Fetched)
        room.give_back(len(answer.content))
    assert sorted(found) == sorted(sizes)
    assert all(taken <= 100 or taken == 500 for taken in held)


def test_an_error_of_the_source_ends_it_and_nobody_waits_for_room_for_ever() -> None:
    asked: list[str] = []

    def fetch(uri: str, room: Room) -> tuple[Answer, int]:
        asked.append(uri)
        if uri == "3":
            raise RateLimited("left alone", retry_after_seconds=5)
        room.take(10**9)  # only one of them fits
        return fetched(uri), 10**9

    with pytest.raises(RateLimited):
        for _ in side_by_side((str(n) for n in range(500)), fetch, at_once=4, name="t"):
            pass
    assert len(asked) < 20
