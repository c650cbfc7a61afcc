"""What is so, whatever was announced when: the files, the highest version of each announced document, and the rules.

Nothing here knows the library. The model also keeps what was so since the last time that everything came to rest: an
index that is behind may hold that, and nothing else, with the readers that it had then or since. Who is shown it is
another matter: the rules of now decide that, too, and of those the model knows one answer only.
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

Access = frozenset[tuple[str, str]]
"""Who may read something: pairs of a tenant and a principal of it."""


def access(tenant: str, readers: Readers) -> Access:
    """These readers, of that tenant."""
    return frozenset((tenant, one) for one in readers)


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
class File:
    """What is in a file, and its time."""

    content: bytes
    time: int


@dataclass(frozen=True, slots=True)
class Truth:
    """One document that is there."""

    content: bytes
    tenant: str
    readers: Readers

    @property
    def access(self) -> Access:
        """Who may read it."""
        return access(self.tenant, self.readers)


Was = tuple[bytes | None, Access]
"""What a document was at one time: its content (None: not there) and who could read it."""

Rules = tuple[tuple[str, Readers], ...]
"""(uri, or the beginning of uris when it ends with /, or "" for all; readers), the first that fits decides."""


@dataclass(slots=True)
class Model:
    """The files, the announcements that arrived, the access rules, and whose each source is."""

    file_rules: Rules
    feed_rules: Rules
    tenants: dict[str, str]  # by source
    files: dict[str, File] = field(default_factory=dict)
    announced: dict[str, list[Announced]] = field(default_factory=dict)
    since: dict[Key, list[Was]] = field(default_factory=dict)  # since everything was at rest, oldest first
    alike: dict[tuple[str, int, int], set[bytes]] = field(default_factory=dict)  # see `may_be_taken_for`
    changed: dict[Key, int] = field(default_factory=dict)  # how often each document became another, ever

    def now(self) -> dict[Key, Truth]:
        """Every document that is there."""
        found = {
            (FILES, uri): Truth(file.content, self.tenants[FILES], _readers(self.file_rules, uri, None))
            for uri, file in self.files.items()
        }
        for uri, versions in self.announced.items():
            winner = max(versions, key=lambda one: one.order)
            if winner.content is not None:
                readers = _readers(self.feed_rules, uri, winner.readers)
                found[FEED, uri] = Truth(winner.content, self.tenants[FEED], readers)
        return found

    def access_now(self, key: Key) -> Access:
        """Who may be shown a row of that document today, whatever the row says; of one that is gone: by its path."""
        truth = self.now().get(key)
        return truth.access if truth else self._by_rules(key)

    def _by_rules(self, key: Key) -> Access:
        source, uri = key
        rules = self.file_rules if source == FILES else self.feed_rules
        return access(self.tenants[source], _readers(rules, uri, None))

    def put(self, uri: str, file: File) -> None:
        """That file is there from now on."""
        self.files[uri] = file
        self.alike.setdefault(_look(uri, file), set()).add(file.content)

    def note(self) -> None:
        """Keep what is so now; called after every change."""
        now = self.now()
        for key in {*now, *self.since}:
            truth = now.get(key)
            # Where it is gone, and nobody has looked yet, what the index holds of it gets the readers of its path.
            was: Was = (truth.content, truth.access) if truth else (None, self._by_rules(key))
            history = self.since.setdefault(key, [(None, frozenset())])
            if history[-1][0] != was[0]:
                self.changed[key] = self.changed.get(key, 0) + 1
            if history[-1] != was:
                history.append(was)

    def may_be_taken_for(self, key: Key) -> set[bytes]:
        """What a look that compares only sizes and times may take a document for: replaced under both, it is as before.

        A thorough look takes each file for what it is; see `read_thoroughly`.
        """
        source, uri = key
        if source != FILES:
            return {self.now()[key].content}
        return self.alike[_look(uri, self.files[uri])]

    def read_thoroughly(self) -> None:
        """Every file was read, and is known as it is."""
        for uri, file in self.files.items():
            self.alike[_look(uri, file)] = {file.content}

    def rest(self, served: Mapping[Key, bytes], taken: Mapping[Key, bytes]) -> None:
        """Everything is applied: what was so before counts no more.

        Args:
            served: contents that are shown now; where one is not readable, an earlier one.
            taken: what each document is taken for.
        """
        self.since = {}
        for key, truth in self.now().items():
            history = [taken[key], truth.content]
            if key in served:
                history.insert(0, served[key])
            contents = [one for n, one in enumerate(history) if n == 0 or one != history[n - 1]]
            self.since[key] = [(content, truth.access) for content in contents]
            if key[0] == FILES:
                self.alike[_look(key[1], self.files[key[1]])] = {taken[key], truth.content}

    def may_hold(self, key: Key, content: bytes) -> Access:
        """What readers a row of that content may carry: who could read the document at or after the time it was so."""
        history = self.since.get(key, [])
        first = next((n for n, (was, _) in enumerate(history) if was == content), None)
        return frozenset() if first is None else frozenset(one for _, who in history[first:] for one in who)

    def contents(self, key: Key) -> set[bytes]:
        """What the index may hold of the document."""
        return {was for was, _ in self.since.get(key, ()) if was is not None}

    def changes(self, key: Key) -> int:
        """How often the content changed, or came back, since everything was at rest."""
        contents = [was for was, _ in self.since.get(key, [])]
        return sum(1 for before, after in pairwise(contents) if after not in (None, before))

    def was_away(self, key: Key) -> bool:
        """Whether it was not there at some time since everything was at rest."""
        return any(was is None for was, _ in self.since.get(key, [(None, frozenset())]))


def _look(uri: str, file: File) -> tuple[str, int, int]:
    """What a listing sees of a file."""
    return uri, len(file.content), file.time


def _readers(rules: Rules, uri: str, reported: Readers | None) -> Readers:
    for pattern, readers in rules:
        if uri == pattern or not pattern or (pattern.endswith("/") and uri.startswith(pattern)):
            return readers
    return ADMIN if reported is None else reported
