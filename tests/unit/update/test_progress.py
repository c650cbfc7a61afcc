import datetime
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.errors import RateLimited, SourceError
from pipelines.home import Home
from pipelines.update.looking import progress


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def test_a_source_that_was_never_followed_is_at_the_beginning(home):
    state = progress.read(home, "docs")
    assert (state.observed_sequence, state.applied_sequence, state.cursor, state.failures) == (0, 0, None, 0)
    assert not state.resting(now())


def test_what_is_changed_is_read_again_and_the_rest_stays(home):
    at = now()
    progress.change(home, "docs", applied_sequence=7, listed_at=at)
    progress.change(home, "docs", cursor="c")
    state = progress.read(home, "docs")
    assert (state.applied_sequence, state.listed_at, state.cursor) == (7, at, "c")
    assert progress.read(home, "other").applied_sequence == 0


def test_a_damaged_record_is_as_if_there_was_none(home):
    progress.change(home, "docs", applied_sequence=7)
    (home.progress / "docs.json").write_text('{"source": "docs", "applied_seq')
    assert progress.read(home, "docs") == progress.Progress("docs")


def test_changes_of_several_threads_are_all_kept(home):
    names = ("observed_sequence", "applied_sequence", "failures")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: progress.change(home, "docs", **{names[n % 3]: n}), range(60)))
    state = progress.read(home, "docs")
    assert {getattr(state, name) % 3 for name in names} == {0, 1, 2}


def test_a_source_that_fails_rests_longer_each_time_in_a_row_and_not_after_it_answered(home):
    longest = []
    for _ in range(8):
        progress.failed(home, "docs", SourceError("down"))
        state = progress.read(home, "docs")
        assert state.resting(now())
        longest.append((state.retry_at - now()).total_seconds())
    assert progress.read(home, "docs").failures == 8
    assert progress.read(home, "docs").error == "SourceError: down"
    assert max(longest) <= 1_800 + 5
    assert min(longest) > 0
    progress.went_well(home, "docs")
    state = progress.read(home, "docs")
    assert (state.failures, state.error, state.retry_at) == (0, None, None)
    assert state.contacted_at is not None


def test_a_source_that_says_how_long_it_wants_to_be_left_alone_is(home):
    progress.failed(home, "docs", RateLimited("slow down", retry_after_seconds=600))
    wait = (progress.read(home, "docs").retry_at - now()).total_seconds()
    assert 590 < wait < 660


def test_a_source_that_asks_for_a_year_is_asked_again_after_a_day(home):
    progress.failed(home, "docs", RateLimited("slow down", retry_after_seconds=31_536_000))
    assert progress.read(home, "docs").retry_at - now() <= datetime.timedelta(days=1, seconds=10)
