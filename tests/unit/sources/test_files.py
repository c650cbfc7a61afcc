"""Reading single files: clocks and waits are values here, nothing sleeps."""

import os
from pathlib import Path

import pytest

from pipelines.sources.base import Fetched, FetchFailure
from pipelines.sources.filesystem.files import FileReader

AT = 1_700_000_000_123_456_789


class Clock:
    """A clock that moves only when somebody waits; `on_wait` is what happens to the files meanwhile."""

    def __init__(self, now_ns: int, on_wait=lambda: None) -> None:
        self.now_ns = now_ns
        self.waits: list[float] = []
        self._on_wait = on_wait

    def now(self) -> int:
        return self.now_ns

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_ns += round(seconds * 1e9)
        self._on_wait()


def write(path: Path, content: bytes, at: int = AT) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(at, at))


def read(root: Path, *uris: str, clock: Clock | None = None, max_bytes: int = 1_000, open_file=None):
    clock = clock or Clock(AT + 10**12)
    options = {} if open_file is None else {"open_file": open_file}
    reader = FileReader(max_bytes=max_bytes, now_ns=clock.now, wait=clock.wait, **options)
    return list(reader.read_all(os.fsencode(root), uris))


def test_a_file_at_rest_is_read_with_its_state(tmp_path):
    write(tmp_path / "a.md", b"text")
    clock = Clock(AT + 10**12)
    (found,) = read(tmp_path, "a.md", clock=clock)
    assert isinstance(found, Fetched)
    assert (found.content, found.size_bytes, found.name) == (b"text", 4, "a.md")
    assert found.modified_at.isoformat() == "2023-11-14T22:13:20.123456+00:00"
    assert clock.waits == []


def test_an_empty_file_is_read(tmp_path):
    write(tmp_path / "a.md", b"")
    assert read(tmp_path, "a.md")[0].content == b""


def test_fresh_files_come_last_and_are_read_after_the_clock_has_ticked(tmp_path):
    write(tmp_path / "fresh.md", b"new")
    write(tmp_path / "old.md", b"old", AT - 10**12)
    clock = Clock(AT + 1_000_000)
    found = read(tmp_path, "fresh.md", "old.md", clock=clock)
    assert [answer.uri for answer in found] == ["old.md", "fresh.md"]
    assert clock.waits == [pytest.approx(0.049)]
    assert found[1].modified_at is not None


def test_a_file_written_again_in_the_same_tick_is_read_as_it_is_then(tmp_path):
    write(tmp_path / "a.md", b"one")
    clock = Clock(AT, on_wait=lambda: write(tmp_path / "a.md", b"two"))
    (found,) = read(tmp_path, "a.md", clock=clock)
    assert found.content == b"two"


def test_a_file_that_does_not_come_to_rest_has_no_time_stamp(tmp_path):
    write(tmp_path / "a.md", b"one")
    clock = Clock(AT)
    clock._on_wait = lambda: write(tmp_path / "a.md", b"two", clock.now_ns + 1)
    (found,) = read(tmp_path, "a.md", clock=clock)
    assert found.content == b"two"
    assert found.modified_at is None


def test_whole_seconds_point_to_a_slow_clock(tmp_path):
    whole = AT // 10**9 * 10**9
    write(tmp_path / "a.md", b"one", whole)
    clock = Clock(whole + 5 * 10**8)
    read(tmp_path, "a.md", clock=clock)
    assert clock.waits == [pytest.approx(1.5)]


def test_a_stamp_far_in_the_future_needs_no_wait(tmp_path):
    write(tmp_path / "a.md", b"one", AT + 10**15)
    clock = Clock(AT)
    assert read(tmp_path, "a.md", clock=clock)[0].content == b"one"
    assert clock.waits == []


@pytest.mark.parametrize(("times", "succeeds"), [(1, True), (2, True), (3, False), (9, False)])
def test_a_file_that_changes_while_it_is_read_is_read_again_a_few_times(tmp_path, times, succeeds):
    path = tmp_path / "a.md"
    write(path, b"start")
    left = [times]

    def now() -> int:  # the reader asks for the time after its first look at the file and before it reads
        if left[0]:
            left[0] -= 1
            with path.open("ab") as file:
                file.write(b"x")
        return AT + 10**12

    clock = Clock(AT)
    reader = FileReader(max_bytes=1_000, now_ns=now, wait=clock.wait)
    (found,) = reader.read_all(os.fsencode(tmp_path), ["a.md"])
    if succeeds:
        assert found.content == path.read_bytes()
    else:
        assert isinstance(found, FetchFailure)
        assert found.transient
        assert found.error_class == "Changing"
        assert clock.waits == [0.05, 0.05]


def test_a_file_that_grew_above_the_limit_since_the_listing_is_refused(tmp_path):
    write(tmp_path / "a.md", b"x" * 11)
    (found,) = read(tmp_path, "a.md", max_bytes=10)
    assert (found.error_class, found.transient) == ("TooLarge", False)
    assert "max_bytes" in found.message


def test_a_file_that_is_gone_since_the_listing_may_be_asked_for_again(tmp_path):
    (found,) = read(tmp_path, "a.md")
    assert (found.error_class, found.transient) == ("Gone", True)


def test_a_link_that_took_the_place_of_a_file_or_folder_is_not_followed(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "a.md", b"secret")
    (tmp_path / "root" / "hr").symlink_to(tmp_path / "out")
    (tmp_path / "root" / "a.md").symlink_to(tmp_path / "out" / "a.md")
    assert [answer.error_class for answer in read(tmp_path / "root", "hr/a.md", "a.md")] == ["Replaced", "Replaced"]


def test_a_pipe_that_took_the_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.md")
    assert read(tmp_path, "a.md")[0].error_class == "SpecialFile"


@pytest.mark.parametrize("uri", ["../a.md", "x/../../a.md", "/etc/passwd", "", "x//a.md", "./a.md", "a%2F..%2F..%2Fb"])
def test_no_uri_leads_out_of_the_root(tmp_path, uri):
    (tmp_path / "root").mkdir()
    write(tmp_path / "a.md", b"secret")
    assert isinstance(read(tmp_path / "root", uri)[0], FetchFailure)


@pytest.mark.parametrize(("code", "transient"), [(13, False), (5, True), (116, True)], ids=["EACCES", "EIO", "ESTALE"])
def test_a_file_that_cannot_be_read_is_a_failure_that_says_whether_to_try_again(tmp_path, code, transient):
    write(tmp_path / "a.md", b"x")
    write(tmp_path / "b.md", b"y")

    def open_file(name: bytes, flags: int, folder: int | None) -> int:
        if name == b"a.md":
            raise OSError(code, os.strerror(code))
        return os.open(name, flags, dir_fd=folder)

    failure, found = read(tmp_path, "a.md", "b.md", open_file=open_file)
    assert (failure.error_class, failure.transient) == ("FileUnreadable", transient)
    assert found.content == b"y"


def test_no_file_stays_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else None
    write(tmp_path / "a.md", b"x")
    (tmp_path / "d").mkdir()
    for _ in range(20):
        read(tmp_path, "a.md", "d/missing.md", "a.md/below", "nowhere/x")
    if before is not None:
        assert len(list(Path("/proc/self/fd").iterdir())) == before
