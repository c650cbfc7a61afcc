"""A source that is what its events say: the contract of every source, and what is its own."""

import hashlib
import json
import threading
import time
from datetime import UTC, datetime

import pytest

from pipelines.home import Home
from pipelines.lake.events import Event
from pipelines.sources.announced.announcements import AnnouncedSection, decode
from pipelines.sources.announced.event_source import EventSource
from pipelines.sources.announced.pointed import PointerReader
from pipelines.sources.base import Check, Fetched, FetchFailure, Hint
from pipelines.sources.surroundings import Surroundings
from tests.source_contract import Harness, SourceContract, fetched, rows, uris


class EventHarness(Harness):
    def __init__(self, folder):
        self.folder = folder / "elsewhere"
        self.folder.mkdir()
        roots = (f"file://{self.folder}",)
        self.section = AnnouncedSection(name="events", kind="any", pointer_roots=roots, max_bytes=1_000)
        self.home = Home(folder / "home")
        self._version = 0

    def around(self):
        return Surroundings.of(self.home)

    def open(self):
        return EventSource(self.section, self.around())

    def say(self, **keys):
        """Append one event as a producer would say it."""
        self._version += 1
        message = {"schema_version": 1, "type": "upsert", "version": self._version} | keys
        event = decode(json.dumps(message).encode(), self.section, origin="test")
        assert event.type != "rejected", event.error
        self.around().events.append([event])
        return event

    def put(self, uri, content):
        self.say(uri=uri, content={"text": content.decode()})

    def delete(self, uri):
        self.say(uri=uri, type="delete")

    @property
    def _log(self):
        return self.home.lake / "change_events" / "_delta_log"

    def break_(self):
        for path in self._log.glob("*.json"):
            path.write_bytes(b"no log" + path.read_bytes())

    def mend(self):
        for path in self._log.glob("*.json"):
            path.write_bytes(path.read_bytes().removeprefix(b"no log"))


@pytest.fixture
def harness(tmp_path):
    return EventHarness(tmp_path)


class TestEventSource(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return EventHarness(tmp_path)


def test_an_item_has_what_the_winning_event_says(harness):
    harness.say(uri="a.md", content={"text": "old"}, title="Old", readers=["group:old"])
    harness.say(
        uri="a.md",
        content={"text": "new"},
        title="New",
        author="Ada",
        created="2026-01-01T00:00:00Z",
        modified="2026-05-04T10:00:00Z",
        version_label="2",
        readers=["group:b", "group:a"],
        metadata={"department": "HR"},
        media_type="text/markdown",
    )
    source = harness.open()
    item = rows(source.list())["a.md"]
    assert item["size_bytes"] == 3
    assert item["readers"] == ["group:a", "group:b"]
    assert item["modified_at"] == datetime(2026, 5, 4, 10, tzinfo=UTC)
    expected = {
        "title": "New",
        "author": "Ada",
        "created": "2026-01-01T00:00:00+00:00",
        "version_label": "2",
        "department": "HR",
    }
    assert json.loads(item["metadata"]) == expected
    answer = fetched(source, ["a.md"])["a.md"]
    assert (answer.content, answer.media_type, answer.metadata) == (b"new", "text/markdown", expected)
    assert answer.etag == item["etag"]


def test_an_event_that_says_nothing_of_readers_reports_none_and_one_with_an_empty_list_nobody(harness):
    harness.say(uri="a", content={"text": "x"}, readers=["group:hr"])
    harness.say(uri="a", content={"text": "x"})
    harness.say(uri="b", content={"text": "x"}, readers=[])
    listing = harness.open().list()
    assert {uri: row["readers"] for uri, row in rows(listing).items()} == {"a": None, "b": []}
    assert listing.reports_readers


def test_an_older_version_that_comes_later_changes_nothing(harness):
    harness.say(uri="a", version=5, content={"text": "five"})
    before = rows(harness.open().list())
    harness.say(uri="a", version=4, content={"text": "four"}, occurred_at="2999-01-01T00:00:00Z")
    harness.say(uri="a", version=4, type="delete")
    assert rows(harness.open().list()) == before


def test_a_deletion_holds_against_what_was_written_before_it_and_comes_later(harness):
    harness.say(uri="a", version=3, type="delete")
    harness.say(uri="a", version=2, content={"text": "late"})
    assert uris(harness.open().list()) == set()


def test_rejected_messages_and_other_sources_are_no_documents(harness):
    around = harness.around()
    around.events.append(
        [
            decode(b"no event", harness.section, origin="test"),
            Event("other", "theirs", "upsert", "test", version=1, content=b"x", size_bytes=1),
            Event("events", "looked", "observed", "listing"),
        ]
    )
    assert uris(harness.open().list()) == set()


def test_a_pointer_is_read_when_the_document_is_fetched(harness):
    content = b"elsewhere"
    (harness.folder / "a.txt").write_bytes(content)
    pointer = {
        "url": f"file://{harness.folder}/a.txt",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }
    harness.say(uri="a.txt", content={"pointer": pointer})
    source = harness.open()
    item = rows(source.list())["a.txt"]
    answer = fetched(source, ["a.txt"])["a.txt"]
    assert isinstance(answer, Fetched)
    assert (answer.content, answer.etag, item["size_bytes"]) == (content, item["etag"], len(content))


def test_a_root_that_is_taken_back_closes_what_events_pointed_to(harness):
    (harness.folder / "a.txt").write_bytes(b"x")
    harness.say(uri="a.txt", content={"pointer": {"url": f"file://{harness.folder}/a.txt"}})
    closed = harness.section.model_copy(update={"pointer_roots": ()})
    answer = fetched(EventSource(closed, harness.around()), ["a.txt"])["a.txt"]
    assert isinstance(answer, FetchFailure)
    assert (answer.error_class, answer.transient) == ("PointerRefused", False)


def test_a_large_document_behind_a_pointer_without_a_size_is_not_read_to_its_end(harness):
    (harness.folder / "big").write_bytes(b"x" * 5_000)
    harness.say(uri="big", content={"pointer": {"url": f"file://{harness.folder}/big"}})
    answer = fetched(harness.open(), ["big"])["big"]
    assert isinstance(answer, FetchFailure)
    assert (answer.error_class, answer.transient) == ("TooLarge", False)


def test_content_that_is_gone_from_the_blobs_is_a_failure_of_that_document_alone(harness):
    first = harness.say(uri="a", content={"text": "first"})
    harness.put("b", b"second")
    digest = hashlib.sha256(first.content).hexdigest()
    next(harness.home.blobs.rglob(digest)).unlink()
    answers = fetched(harness.open(), ["a", "b"])
    assert answers["a"].error_class == "BlobMissing"
    assert answers["b"].content == b"second"


def test_checking_tries_what_the_kind_adds_first(harness):
    kinds = Check("connect", True, "fine")
    source = EventSource(harness.section, harness.around(), lambda: iter([kinds]))
    assert [check.name for check in source.check()] == ["connect", "events"]


def test_looking_at_one_document_gives_the_row_of_the_listing_whatever_else_there_is(harness):
    for number in range(30):
        harness.put(f"d{number % 10}", f"text {number}".encode())
    listed = rows(harness.open().list())
    for uri in listed:
        assert rows(harness.open().look([Hint(uri)])) == {uri: listed[uri]}


def test_two_events_with_one_version_fold_the_same_way_in_either_order(tmp_path):
    folds = []
    for name, order in (("one", (0, 1)), ("other", (1, 0))):
        (tmp_path / name).mkdir()
        harness = EventHarness(tmp_path / name)
        texts = ["first", "second"]
        for position in order:
            harness.say(uri="a", version=1, content={"text": texts[position]})
        folds.append(rows(harness.open().list()))
    assert folds[0] == folds[1]


def test_a_long_log_folds_within_seconds(harness):
    section = harness.section
    log = harness.around().events
    for start in range(0, 6_000, 2_000):
        numbers = range(start, start + 2_000)
        log.append([Event(section.name, f"d{n % 2_000}", "delete", "t", version=n) for n in numbers])
    started = time.perf_counter()
    assert uris(harness.open().list()) == set()
    assert time.perf_counter() - started < 5


def test_pointers_are_read_side_by_side_and_each_document_is_answered_once(harness, monkeypatch):
    met = threading.Barrier(4)
    read = PointerReader.read

    def together(self, uri, pointer):
        met.wait(10)  # breaks, and fails the test, unless four are read together
        return read(self, uri, pointer)

    monkeypatch.setattr(PointerReader, "read", together)
    wanted = []
    for number in range(8):
        (harness.folder / f"{number}.txt").write_text(f"text {number}")
        pointer = {"url": f"file://{harness.folder}/{number}.txt"} | ({"size": 6} if number % 2 else {})
        harness.say(uri=f"{number}.txt", content={"pointer": pointer})
        harness.put(f"inline-{number}", f"inline {number}".encode())
        wanted += [f"{number}.txt", f"inline-{number}"]
    answers = list(harness.open().fetch([*wanted, "unknown"]))
    found = {answer.uri: answer.content.decode() for answer in answers if isinstance(answer, Fetched)}
    assert found == {u: u.replace("-", " ") if "-" in u else f"text {u[0]}" for u in wanted}
    assert [a.uri for a in answers if isinstance(a, FetchFailure)] == ["unknown"]
    assert len(answers) == 17
