"""What is so, whatever was announced when: the files, and the highest version of each announced document.

Nothing here knows the library. The model also keeps what was so since the last time that everything came to rest: an
index that is behind may show that, and nothing else, and to nobody who was not allowed to read it then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from tests.integration._truth_oracle import Readers

Key = tuple[str, str]
"""Source and uri."""

FILES, FEED = "docs", "feed"
ADMIN: Readers = ("role:admin",)


@dataclass(frozen=True, slots=True)
class Announced:
    """One version of a document of the feed; without content it is deleted."""

    uri: str
    version: int
    content: bytes | None
    readers: Readers | None
    event_id: str = ""  # of two with one version a delete counts, then the higher id

    @property
    def order(self) -> tuple[int, bool, str]:
        """Of a document's versions the one with the highest counts."""
        return self.version, self.content is None, self.event_id


@dataclass(frozen=True, slots=True)
class Truth:
    """One document that is there."""

    content: bytes
    readers: Readers


Was = tuple[bytes | None, Readers]
"""What a document was at one time: its content (None: not there) and its readers."""

Rules = tuple[tuple[str, Readers], ...]
"""(uri, or the beginning of uris when it ends with /, or "" for all; readers), the first that fits decides."""


@dataclass(slots=True)
class Model:
    """The files, the announcements that arrived, and the access rules."""

    file_rules: Rules
    feed_rules: Rules
    files: dict[str, bytes] = field(default_factory=dict)
    announced: dict[str, list[Announced]] = field(default_factory=dict)
    since: dict[Key, list[Was]] = field(default_factory=dict)  # since everything was at rest, oldest first
    ever: dict[Key, list[Was]] = field(default_factory=dict)  # the same since the beginning

    def now(self) -> dict[Key, Truth]:
        """Every document that is there."""
        found = {
            (FILES, uri): Truth(content, _readers(self.file_rules, uri, None)) for uri, content in self.files.items()
        }
        for uri, versions in self.announced.items():
            winner = max(versions, key=lambda one: one.order)
            if winner.content is not None:
                found[FEED, uri] = Truth(winner.content, _readers(self.feed_rules, uri, winner.readers))
        return found

    def note(self) -> None:
        """Keep what is so now; called after every change."""
        now = self.now()
        for key in {*now, *self.since}:
            truth = now.get(key)
            # Where it is gone, and nobody has looked yet, what is shown of it follows the rules of its path, too.
            was: Was = (truth.content, truth.readers) if truth else (None, self._by_rules(key))
            history = self.since.setdefault(key, [(None, ())])
            if history[-1] != was:
                history.append(was)
            everything = self.ever.setdefault(key, [])
            if everything[-1:] != [was]:
                everything.append(was)

    def _by_rules(self, key: Key) -> Readers:
        source, uri = key
        return _readers(self.file_rules if source == FILES else self.feed_rules, uri, None)

    def rest(self, served: Mapping[Key, bytes]) -> None:
        """Everything is applied: what was so before counts no more. `served`: contents that are shown now."""
        now = self.now()
        self.since = {}
        for key, truth in now.items():
            self.since[key] = [(truth.content, truth.readers)]
            if served.get(key, truth.content) != truth.content:  # the last version that could be read
                self.since[key].insert(0, (served[key], truth.readers))

    def may_read(self, key: Key, content: bytes, *, ever: bool = False) -> frozenset[str]:
        """Who might be shown that content: who could read the document, or its path, at or after the time it was so."""
        history = (self.ever if ever else self.since).get(key, [])
        first = next((n for n, (was, _) in enumerate(history) if was == content), None)
        return frozenset() if first is None else frozenset(p for _, readers in history[first:] for p in readers)

    def contents(self, key: Key, *, ever: bool = False) -> set[bytes]:
        """What the document may be shown as."""
        return {was for was, _ in (self.ever if ever else self.since).get(key, ()) if was is not None}

    def changes(self, key: Key) -> int:
        """How often the content changed, or came back, since everything was at rest."""
        contents = [was for was, _ in self.since.get(key, [])]
        return sum(1 for before, after in pairwise(contents) if after not in (None, before))

    def was_away(self, key: Key) -> bool:
        """Whether it was not there at some time since everything was at rest."""
        return any(was is None for was, _ in self.since.get(key, [(None, ())]))


def _readers(rules: Rules, uri: str, reported: Readers | None) -> Readers:
    for pattern, readers in rules:
        if uri == pattern or not pattern or (pattern.endswith("/") and uri.startswith(pattern)):
            return readers
    return ADMIN if reported is None else reported
