"""What every kind of source promises, as tests: a kind's test module subclasses `SourceContract` with its harness.

class TestFolder(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path): ...
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from time import monotonic

import pytest

from pipelines.errors import SourceError
from pipelines.lake.events import Event
from pipelines.sources.base import Fetched, FetchFailure, Hint, Listing, Polling, Source, Stream
from pipelines.sources.section import SourceSection

_PATIENCE_SECONDS = 20.0


class Harness(ABC):
    """A source with its far side: what a test puts there, takes away and breaks.

    `polls`: the source can tell what changed since a cursor. `streams`: it announces changes, and `open_stream` works.
    `odd_uris`: uris that are hard to carry and must survive; a kind may narrow them to what it can name.
    """

    section: SourceSection
    polls = False
    streams = False
    odd_uris: tuple[str, ...] = (
        "with space.md",
        "umlaut-ä.md",
        "100%25.md",
        "line%0Abreak.md",
        "emoji-😀.md",
        "quote'\";--.md",
        "a&b=c+d#e?.md",
        "deep/er/file.md",
    )

    @abstractmethod
    def open(self) -> Source:
        """The source, as the registry gives it."""

    @abstractmethod
    def put(self, uri: str, content: bytes) -> None:
        """Make the document be there with that content (UTF-8 text), new or changed."""

    @abstractmethod
    def delete(self, uri: str) -> None:
        """Make the document be gone."""

    @abstractmethod
    def break_(self) -> None:
        """Make the source unreadable as a whole."""

    @abstractmethod
    def mend(self) -> None:
        """Make it readable again, with all that was there."""

    def put_too_large(self, uri: str) -> None:
        """A document of more than `section.max_bytes`."""
        self.put(uri, b"x" * (self.section.max_bytes + 1))

    def fetched_as(self, content: bytes) -> bytes:
        """The bytes that `fetch` gives for what was put: the same, where a kind does not wrap them."""
        return content

    def open_stream(self) -> Stream:
        """What announces changes; only with `streams`. From now on nobody else takes them from it."""
        raise NotImplementedError

    def keep(self, events: list[Event]) -> None:
        """Make announced events durable; a source that is what its events say needs them in its log."""
        del events


def uris(listing: Listing) -> set[str]:
    found = listing.items["uri"].to_pylist()
    assert len(found) == len(set(found)), "a listing names each uri once"
    return set(found)


def rows(listing: Listing) -> dict[str, dict]:
    return {row["uri"]: row for row in listing.items.to_pylist()}


def fetched(source: Source, wanted: Iterable[str]) -> dict[str, Fetched | FetchFailure]:
    wanted = list(wanted)
    answers = list(source.fetch(wanted))
    assert sorted(answer.uri for answer in answers) == sorted(wanted), "one answer for each uri"
    return {answer.uri: answer for answer in answers}


def announces(event: Event, uri: str) -> bool:
    """Whether an event makes an update look at a document."""
    return event.uri == uri or (event.subtree and (event.uri == "" or uri.startswith(event.uri + "/")))


def covers(hint: Hint, uri: str) -> bool:
    return hint.uri == uri or (hint.subtree and (hint.uri == "" or uri.startswith(hint.uri + "/")))


def received(stream: Stream, *wanted: str, keep: Callable[[list[Event]], None] = lambda events: None) -> list[Event]:
    """Receive, keep and acknowledge until every one of these uris was announced."""
    events: list[Event] = []
    deadline = monotonic() + _PATIENCE_SECONDS
    while not all(any(announces(event, uri) for event in events) for uri in wanted):
        assert monotonic() < deadline, f"not announced: {wanted}; announced: {[event.uri for event in events]}"
        messages = stream.receive(limit=100, wait_seconds=0.5)
        new = [event for message in messages for event in message.events]
        keep(new)
        stream.acknowledge(messages)
        events += new
    return events


class SourceContract:
    """Subclass it with a fixture `harness`."""

    def test_a_listing_shows_what_was_put_and_not_what_was_deleted(self, harness):
        for uri in ("a.md", "hr/b.md", "c.md"):
            harness.put(uri, f"text of {uri}".encode())
        harness.delete("c.md")
        listing = harness.open().list()
        assert uris(listing) == {"a.md", "hr/b.md"}
        assert listing.complete

    def test_what_nobody_touched_is_listed_the_same_again_and_what_changed_is_not(self, harness):
        harness.put("a.md", b"one")
        harness.put("b.md", b"two")
        first = rows(harness.open().list())
        assert rows(harness.open().list()) == first
        harness.put("b.md", b"two, changed")
        second = rows(harness.open().list())
        assert second["a.md"] == first["a.md"]
        compared = ("size_bytes", "etag", "modified_at")
        assert [second["b.md"][name] for name in compared] != [first["b.md"][name] for name in compared]

    def test_fetch_gives_the_content_and_the_etag_of_the_listing(self, harness):
        harness.put("a.md", "Grüße\n".encode())
        harness.put("hr/b.md", b"second")
        source = harness.open()
        listed = rows(source.list())
        answers = fetched(source, listed)
        for uri, content in (("a.md", "Grüße\n".encode()), ("hr/b.md", b"second")):
            answer = answers[uri]
            assert isinstance(answer, Fetched), answer
            assert answer.content == harness.fetched_as(content)
            assert answer.size_bytes == len(answer.content)
            assert answer.etag == listed[uri]["etag"]
            if answer.etag is None:
                assert answer.modified_at in (None, listed[uri]["modified_at"])

    def test_a_document_that_is_gone_when_it_is_fetched_is_a_failure_that_waiting_may_cure(self, harness):
        harness.put("a.md", b"one")
        harness.put("b.md", b"two")
        source = harness.open()
        source.list()
        harness.delete("b.md")
        answers = fetched(source, ["a.md", "b.md"])
        assert isinstance(answers["a.md"], Fetched)
        gone = answers["b.md"]
        assert isinstance(gone, FetchFailure)
        assert gone.transient

    def test_a_look_shows_of_what_is_hinted_what_a_listing_shows(self, harness):
        for uri in ("a.md", "hr/b.md", "hr/c.md", "it/d.md"):
            harness.put(uri, f"text of {uri}".encode())
        source = harness.open()
        listed = rows(source.list())
        one = rows(source.look([Hint("hr/b.md")]))
        assert one == {"hr/b.md": listed["hr/b.md"]}
        below = rows(source.look([Hint("hr", subtree=True), Hint("a.md")]))
        assert below == {uri: listed[uri] for uri in ("a.md", "hr/b.md", "hr/c.md")}
        assert rows(source.look([Hint("", subtree=True)])) == listed
        assert len(source.look([]).items) == 0

    def test_a_hinted_document_that_is_gone_is_neither_an_item_nor_a_problem(self, harness):
        harness.put("a.md", b"one")
        harness.put("b.md", b"two")
        harness.delete("b.md")
        listing = harness.open().look([Hint("b.md"), Hint("never/was/there.md"), Hint("nor/this", subtree=True)])
        assert uris(listing) == set()
        assert listing.problems == ()

    def test_a_deleted_document_can_come_back(self, harness):
        harness.put("a.md", b"one")
        harness.delete("a.md")
        harness.put("a.md", b"again")
        source = harness.open()
        assert uris(source.list()) == {"a.md"}
        answer = fetched(source, ["a.md"])["a.md"]
        assert isinstance(answer, Fetched)
        assert answer.content == harness.fetched_as(b"again")

    def test_odd_names_survive_listing_looking_and_fetching(self, harness):
        for uri in harness.odd_uris:
            harness.put(uri, f"text of {uri}".encode())
        source = harness.open()
        assert uris(source.list()) == set(harness.odd_uris)
        assert uris(source.look([Hint(uri) for uri in harness.odd_uris])) == set(harness.odd_uris)
        answers = fetched(source, harness.odd_uris)
        for uri in harness.odd_uris:
            answer = answers[uri]
            assert isinstance(answer, Fetched), answer
            assert answer.content == harness.fetched_as(f"text of {uri}".encode())

    def test_a_document_above_the_limit_is_told_and_never_read(self, harness):
        harness.put("a.md", b"one")
        harness.put_too_large("big.md")
        source = harness.open()
        listing = source.list()
        assert "a.md" in uris(listing)
        if "big.md" in uris(listing):
            answer = fetched(source, ["big.md"])["big.md"]
            assert isinstance(answer, FetchFailure)
            assert not answer.transient
            assert "max_bytes" in answer.message
        else:
            assert [problem.uri for problem in listing.problems] == ["big.md"]
            assert "max_bytes" in listing.problems[0].message

    def test_a_broken_source_is_an_error_and_never_an_empty_listing(self, harness):
        harness.put("a.md", b"one")
        harness.break_()
        with pytest.raises(SourceError, match=harness.section.name):
            harness.open().list()
        with pytest.raises(SourceError, match=harness.section.name):
            harness.open().look([Hint("a.md")])
        harness.mend()
        assert uris(harness.open().list()) == {"a.md"}

    def test_checking_a_good_source_says_that_all_is_well(self, harness):
        harness.put("a.md", b"one")
        checks = list(harness.open().check())
        assert checks
        assert [check for check in checks if not check.ok] == []

    def test_checking_a_broken_source_says_what_is_wrong_and_does_not_raise(self, harness):
        harness.put("a.md", b"one")
        harness.break_()
        failed = [check for check in harness.open().check() if not check.ok]
        assert failed
        assert all(check.name and check.message for check in failed)

    def test_polling_names_what_changed_after_the_cursor(self, harness):
        if not harness.polls:
            return
        harness.put("a.md", b"one")
        harness.put("b.md", b"two")
        source = harness.open()
        assert isinstance(source, Polling)
        first = source.poll(None)
        assert all(any(covers(hint, uri) for hint in first.hints) for uri in ("a.md", "b.md"))
        harness.put("b.md", b"two, changed")
        harness.put("c.md", b"three")
        second = harness.open().poll(first.cursor)
        assert all(any(covers(hint, uri) for hint in second.hints) for uri in ("b.md", "c.md"))
        third = harness.open().poll(second.cursor)
        harness.put("a.md", b"one, changed")
        assert any(covers(hint, "a.md") for hint in harness.open().poll(third.cursor).hints)

    def test_the_stream_announces_what_is_put_changed_and_deleted(self, harness):
        if not harness.streams:
            return
        stream = harness.open_stream()
        try:
            stream.receive(limit=100, wait_seconds=0)
            harness.put("a.md", b"one")
            harness.put("hr/b.md", b"two")
            received(stream, "a.md", "hr/b.md", keep=harness.keep)
            assert uris(harness.open().look([Hint("a.md"), Hint("hr/b.md")])) == {"a.md", "hr/b.md"}
            harness.put("a.md", b"one, changed")
            received(stream, "a.md", keep=harness.keep)
            harness.delete("hr/b.md")
            received(stream, "hr/b.md", keep=harness.keep)
            assert uris(harness.open().look([Hint("a.md"), Hint("hr/b.md")])) == {"a.md"}
        finally:
            stream.close()
