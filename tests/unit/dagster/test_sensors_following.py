"""Streams that stay open between ticks: what they bring, what a failure or a silence of one does to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import SourceError
from pipelines.home import Home
from pipelines.lake.events import Event
from pipelines.project import Project
from pipelines.sources import registry
from pipelines.sources.base import Lag, Received
from pipelines.sources.registry import KINDS
from pipelines.update.looking import progress
from resources import following
from resources.following import Followers, Told


@dataclass
class FakeStream:
    """Gives what a test puts into it; can fail, and can stay silent for ever."""

    messages: list[Received] = field(default_factory=list)
    errors: list[SourceError] = field(default_factory=list)
    acknowledged: int = 0
    opened: int = 0
    closed: int = 0
    silent: threading.Event | None = None
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def put(self, uri: str) -> None:
        with self.arrived:
            self.messages.append(Received((Event("any", uri, "changed", f"test:{uri}"),), uri))
            self.arrived.notify_all()

    def receive(self, *, limit: int, wait_seconds: float) -> Sequence[Received]:
        if self.silent is not None:
            self.silent.wait()
        with self.arrived:
            if self.errors:
                raise self.errors.pop(0)
            self.arrived.wait_for(lambda: self.messages, timeout=min(wait_seconds, 0.05))
            taken, self.messages = self.messages[:limit], self.messages[limit:]
        return taken

    def acknowledge(self, received: Sequence[Received]) -> None:
        self.acknowledged += len(received)

    def lag(self) -> Lag:
        return Lag(len(self.messages))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeStream]:
    found = {name: FakeStream() for name in ("one", "two")}

    def opened(section: Any, _around: Any) -> FakeStream:
        stream = found[section.name]
        stream.opened += 1
        stream.messages = [
            replace(message, events=tuple(replace(event, source=section.name) for event in message.events))
            for message in stream.messages
        ]
        return stream

    monkeypatch.setitem(registry.KINDS, "filesystem", replace(KINDS["filesystem"], stream=opened))
    return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    path = tmp_path / "lockstep.yaml"
    path.write_text(
        "index: handbook\nsources:\n"
        "  - {name: one, kind: filesystem, path: one, stall_seconds: 0.2}\n"
        "  - {name: two, kind: filesystem, path: two, stall_seconds: 0.2}\n"
    )
    return Project.open(path, Home(tmp_path / "home"))


@pytest.fixture
def followers() -> Iterator[Followers]:
    kept = Followers()
    yield kept
    kept.stop()


@dataclass
class Desk:
    """Ticks one after the other, and what they told in all."""

    followers: Followers
    project: Project

    def tick(self, wait_seconds: float = 0.1) -> dict[str, Told]:
        told = self.followers.follow(self.project, self.project.config.sources, wait_seconds=wait_seconds)
        return {one.source: one for one in told}

    def until(self, check: Callable[[dict[str, Told]], object]) -> dict[str, Told]:
        limit = time.monotonic() + 20
        while True:
            told = self.tick()
            if check(told):
                return told
            assert time.monotonic() < limit, told


@pytest.fixture
def desk(followers: Followers, project: Project, streams: dict[str, FakeStream]) -> Desk:
    return Desk(followers, project)


def test_what_a_stream_brings_is_durable_and_told_once(desk: Desk, streams: dict[str, FakeStream]) -> None:
    (Path(desk.project.config.sources[0].path) / "a.md").write_text("A page.")  # type: ignore[attr-defined]
    streams["one"].put("a.md")
    told = desk.until(lambda told: told["one"].new)
    assert told["one"].new == 1
    assert told["one"].found == 1
    assert streams["one"].acknowledged == 1
    assert desk.project.lake.count("change_events") == 2
    assert desk.tick()["one"].new == 0


def test_a_tick_ends_as_soon_as_there_is_news(desk: Desk, streams: dict[str, FakeStream]) -> None:
    desk.tick()
    streams["two"].put("a.md")
    began = time.monotonic()
    desk.tick(wait_seconds=60)
    assert time.monotonic() - began < 20


def test_a_stream_stays_open_between_ticks(desk: Desk, streams: dict[str, FakeStream]) -> None:
    for name in ("a.md", "b.md", "c.md"):
        streams["one"].put(name)
        desk.until(lambda told: told["one"].new)
    assert streams["one"].opened == 1


def test_a_failing_source_is_told_with_its_words_and_delays_no_other(
    desk: Desk, streams: dict[str, FakeStream]
) -> None:
    streams["one"].errors = [SourceError("reading queue q: denied; grant it")]
    told = desk.until(lambda told: told["one"].error)
    assert "denied; grant it" in str(told["one"].error)
    assert told["one"].turned
    assert told["one"].retry_at is not None
    assert streams["one"].closed == 1
    assert progress.read(desk.project.home, "one").stream_failures == 1
    streams["two"].put("b.md")
    assert desk.until(lambda told: told["two"].new)["two"].error is None
    assert not desk.tick()["one"].turned


def test_a_source_that_can_be_read_again_is_followed_again(
    desk: Desk, streams: dict[str, FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_backoff_seconds", lambda _failures: -2.4)
    streams["one"].errors = [SourceError("gone for a moment")]
    desk.until(lambda told: told["one"].error)
    told = desk.until(lambda told: told["one"].error is None)
    assert told["one"].turned
    assert streams["one"].opened == 2


def test_a_hanging_source_delays_no_other_and_is_told(desk: Desk, streams: dict[str, FakeStream]) -> None:
    streams["one"].silent = threading.Event()
    try:
        streams["two"].put("b.md")
        assert desk.until(lambda told: told["two"].new)
        told = desk.until(lambda told: told["one"].error)
        assert "no sign for" in str(told["one"].error)
    finally:
        streams["one"].silent.set()


def test_a_source_without_a_stream_is_told_as_one_that_is_listed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.KINDS, "filesystem", replace(KINDS["filesystem"], stream=lambda *_: None))
    assert not desk.until(lambda told: not told["one"].streams)["one"].news


def test_a_defect_in_a_stream_ends_no_tick(
    desk: Desk, streams: dict[str, FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("no such key")

    monkeypatch.setattr(following, "pump", broken)
    assert "KeyError" in str(desk.until(lambda told: told["one"].error)["one"].error)


def test_nobody_follows_any_more_when_nobody_has_asked_for_a_while(
    desk: Desk, streams: dict[str, FakeStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LEASE_SECONDS", 0.3)
    desk.tick()
    limit = time.monotonic() + 20
    while not streams["one"].closed:
        assert time.monotonic() < limit
        threading.Event().wait(0.02)
    streams["one"].put("a.md")
    desk.until(lambda told: told["one"].new)
    assert streams["one"].opened == 2


def test_without_sources_a_tick_waits_and_tells_nothing(desk: Desk) -> None:
    began = time.monotonic()
    assert desk.followers.follow(desk.project, [], wait_seconds=0.2) == []
    assert time.monotonic() - began >= 0.2
