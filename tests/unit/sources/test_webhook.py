import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from pipelines.errors import SourceError
from pipelines.home import Home
from pipelines.sources.registry import open_source, open_stream
from pipelines.sources.surroundings import Surroundings
from pipelines.sources.webhook.inbox import Inbox, InboxFull, delivery_id
from pipelines.sources.webhook.source import InboxStream, WebhookSource
from tests.source_contract import Harness, SourceContract


def section(**options) -> WebhookSource:
    return WebhookSource(name="hook", kind="webhook", secret_env="HOOK_SECRET", **options)


@pytest.fixture(autouse=True)
def a_secret(monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", "0123456789abcdef0123456789abcdef")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def inbox(home: Home) -> Inbox:
    box = Inbox(home, "hook")
    box.prepare()
    return box


def stream(home: Home, **options) -> InboxStream:
    found = open_stream(section(**options), Surroundings.of(home))
    assert isinstance(found, InboxStream)
    return found


def put(inbox: Inbox, body: bytes, *, timestamp: str = "1700000000", most_waiting: int = 100) -> str | None:
    name = delivery_id("hook", timestamp, body)
    return name if inbox.put(name, body, most_waiting=most_waiting) else None


def upsert(uri: str, version: int, text: str = "text") -> bytes:
    message = {"schema_version": 1, "type": "upsert", "uri": uri, "version": version, "content": {"text": text}}
    return json.dumps(message).encode()


class WebhookHarness(Harness):
    streams = True

    def __init__(self, folder: Path) -> None:
        self.section = section(max_bytes=1_000)
        self.home = Home(folder / "home")
        self.inbox = Inbox(self.home, "hook")
        self.inbox.prepare()
        self._version = 0
        self._streaming = False
        self._log = self.home.lake / "change_events" / "_delta_log"

    def open(self):
        return open_source(self.section, Surroundings.of(self.home))

    def _send(self, message):
        self._version += 1
        message |= {"schema_version": 1, "version": self._version}
        assert put(self.inbox, json.dumps(message).encode())
        if not self._streaming:
            received = InboxStream(self.section, Surroundings.of(self.home))
            messages = received.receive(limit=10, wait_seconds=0)
            self.keep([event for message in messages for event in message.events])
            received.acknowledge(messages)

    def put(self, uri, content):
        self._send({"type": "upsert", "uri": uri, "content": {"text": content.decode()}})

    def delete(self, uri):
        self._send({"type": "delete", "uri": uri})

    def break_(self):
        shutil.copytree(self._log, self._log.with_name("kept"))
        for file in self._log.glob("*.json"):
            file.write_text("damaged")

    def mend(self):
        shutil.rmtree(self._log)
        self._log.with_name("kept").rename(self._log)

    def open_stream(self):
        self._streaming = True
        return open_stream(self.section, Surroundings.of(self.home))

    def keep(self, events):
        assert all(event.type != "rejected" for event in events), [event.error for event in events]
        Surroundings.of(self.home).events.append(events)


class TestWebhook(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return WebhookHarness(tmp_path)


def test_calls_are_read_in_the_order_in_which_they_came(home, inbox):
    names = [put(inbox, upsert(f"{number}.md", 1)) for number in (3, 1, 2)]
    for seconds, name in enumerate(names):
        os.utime(home.inbox / "hook" / "waiting" / name, (seconds, seconds))
    first, second = stream(home).receive(limit=2, wait_seconds=0)
    assert [first.events[0].uri, second.events[0].uri] == ["3.md", "1.md"]
    assert first.events[0].received_at.timestamp() == 0
    assert first.events[0].origin == f"webhook:hook/{names[0]}"


def test_a_call_stays_in_the_inbox_until_it_is_acknowledged(home, inbox):
    put(inbox, upsert("a.md", 1))
    first = stream(home).receive(limit=10, wait_seconds=0)
    reader = stream(home)
    again = reader.receive(limit=10, wait_seconds=0)
    assert [message.events[0].identity("x") for message in first] == [m.events[0].identity("x") for m in again]
    assert reader.lag().messages == 1
    assert reader.lag().oldest_seconds is not None
    reader.acknowledge(again)
    assert reader.receive(limit=10, wait_seconds=0) == []
    assert reader.lag().messages == 0
    assert reader.lag().oldest_seconds is None


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        (b"no json", "NotJson"),
        (b"\xff\xfe\x00binary", "NotUtf8"),
        (b"", "NotJson"),
        (b"{}", "SchemaViolation"),
        (b'{"schema_version": 9, "type": "upsert", "uri": "a", "version": 1}', "UnknownSchemaVersion"),
    ],
)
def test_a_call_that_cannot_be_understood_is_an_event_that_keeps_it(home, inbox, body, error_class):
    put(inbox, body)
    reader = stream(home)
    (message,) = reader.receive(limit=10, wait_seconds=0)
    (event,) = message.events
    assert (event.type, event.content, event.error_class) == ("rejected", body, error_class)
    reader.acknowledge([message])
    assert reader.lag().messages == 0


def test_bodies_in_memory_are_bounded_whatever_the_limit(home, inbox, monkeypatch):
    monkeypatch.setattr("pipelines.sources.webhook.source._MOST_BYTES", 1_000)
    for number in range(5):
        put(inbox, upsert(f"{number}.md", 1, text="x" * 400))
    reader = stream(home)
    sizes = []
    while messages := reader.receive(limit=100, wait_seconds=0):
        sizes.append(len(messages))
        reader.acknowledge(messages)
    assert sizes == [2, 2, 1]


def test_a_stream_without_an_inbox_is_empty(home):
    assert stream(home).receive(limit=10, wait_seconds=0) == []
    assert stream(home).lag().messages == 0


def test_an_inbox_that_cannot_be_read_is_an_error_that_says_what_to_do(home):
    home.inbox.mkdir(parents=True)
    (home.inbox / "hook").write_text("a file in place of the folder")
    with pytest.raises(SourceError, match="LOCKSTEP_HOME"):
        stream(home).receive(limit=10, wait_seconds=0)


def test_a_call_is_known_again_while_it_waits_and_after_it_was_taken_also_by_another_process(home, inbox):
    assert put(inbox, b"body")
    assert put(inbox, b"body") is None
    reader = stream(home)
    reader.acknowledge(reader.receive(limit=10, wait_seconds=0))
    assert put(inbox, b"body") is None
    assert put(Inbox(home, "hook"), b"body") is None
    assert put(inbox, b"body", timestamp="1700000001")
    assert put(inbox, b"another body")


def test_a_call_is_forgotten_when_its_time_stamp_is_too_old_anyway(home, inbox):
    options = {"tolerance_seconds": 10}
    remembered = section(**options).remember_seconds
    assert remembered >= 2 * 10
    for age, still_known in ((remembered - 5, True), (remembered + 5, False)):
        name = put(inbox, f"{age}".encode())
        came = time.time() - age
        os.utime(home.inbox / "hook" / "waiting" / name, (came, came))
        reader = stream(home, **options)
        reader.acknowledge(reader.receive(limit=10, wait_seconds=0))
        assert (home.inbox / "hook" / "spent" / name).exists() is still_known


def test_a_full_inbox_takes_nothing_more_until_it_is_read(home, inbox):
    for number in range(3):
        assert put(inbox, str(number).encode(), most_waiting=3)
    with pytest.raises(InboxFull, match="3 deliveries wait"):
        put(inbox, b"more", most_waiting=3)
    reader = stream(home)
    reader.acknowledge(reader.receive(limit=10, wait_seconds=0))
    assert put(inbox, b"more", most_waiting=3)


def stored(home: Home) -> list[str]:
    return [path.name for path in (home.inbox / "hook").rglob("*") if path.is_file()]


def test_a_disk_that_is_nearly_full_takes_nothing_in(home, inbox, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1_000, 1_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InboxFull, match="disk"):
        put(inbox, b"body")
    assert stored(home) == []


@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, InboxFull), (errno.EIO, OSError)])
def test_a_body_that_cannot_be_written_leaves_nothing_behind(home, inbox, monkeypatch, code, expected):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        with pytest.raises(expected):
            put(inbox, b"body")
    assert stored(home) == []
    assert put(inbox, b"body")


def test_bodies_of_a_receiver_that_was_killed_are_removed_when_the_next_one_starts(home, inbox):
    incoming = home.inbox / "hook" / "incoming"
    (incoming / "old").write_bytes(b"half a bo")
    (incoming / "young").write_bytes(b"being writ")
    os.utime(incoming / "old", (1, 1))
    inbox.prepare()
    assert stored(home) == ["young"]
    assert inbox.waiting() == []


def failed_checks(home: Home, **options) -> dict[str, str]:
    source = open_source(section(**options), Surroundings.of(home))
    return {check.name: check.message for check in source.check() if not check.ok}


def test_checking_names_a_secret_that_is_not_set_or_too_short(home, monkeypatch):
    assert failed_checks(home) == {}
    assert "OLD_SECRET" in failed_checks(home, secret_env_previous="OLD_SECRET")["secret"]
    monkeypatch.setenv("HOOK_SECRET", "short")
    assert "openssl rand" in failed_checks(home)["secret"]
    monkeypatch.delenv("HOOK_SECRET")
    assert "HOOK_SECRET" in failed_checks(home)["secret"]
