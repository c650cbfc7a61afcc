import threading

import pytest

from pipelines.errors import SourceError, SourceStalled
from pipelines.update.looking.contact import side_by_side


def fail(_beat):
    raise SourceError("down")


def test_each_piece_gives_what_it_returned_or_raised():
    found = side_by_side({"a": lambda beat: 1, "b": fail}, {"a": 5, "b": 5})
    assert found["a"] == 1
    assert isinstance(found["b"], SourceError)


def test_they_run_side_by_side():
    together = threading.Barrier(3, timeout=10)
    found = side_by_side({name: lambda beat: together.wait() for name in "abc"}, dict.fromkeys("abc", 20))
    assert sorted(found.values()) == [0, 1, 2]


def test_one_that_hangs_is_given_up_and_named_while_the_others_are_there():
    never = threading.Event()
    found = side_by_side({"good": lambda beat: "here", "bad": lambda beat: never.wait()}, {"good": 5, "bad": 0.2})
    never.set()
    assert found["good"] == "here"
    assert isinstance(found["bad"], SourceStalled)
    assert "'bad'" in str(found["bad"])
    assert "stall_seconds" in str(found["bad"])


def test_one_that_is_slow_and_gets_on_is_not_given_up():
    tick = threading.Event()

    def slow(beat):
        for _ in range(8):
            tick.wait(0.1)
            beat()
        return "done"

    assert side_by_side({"slow": slow}, {"slow": 0.4}) == {"slow": "done"}


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x")])
def test_an_error_that_nobody_expected_is_handed_over_as_it_is(error):
    def broken(_beat):
        raise error

    assert side_by_side({"a": broken}, {"a": 5}) == {"a": error}
