"""One look at a source: what it holds now against what is known of it, told as events. Nothing is written here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipelines.governance.access import SourceLabels
from pipelines.identity import content_hash
from pipelines.lake import manifest
from pipelines.lake.dead_letters import Failure
from pipelines.lake.events import Event
from pipelines.parsing.media_types import detect_media_type
from pipelines.sources.base import Fetched, FetchFailure, Hint, Listing, Progress, Source
from pipelines.sources.detect import Decision, decide
from pipelines.sources.section import SourceSection
from pipelines.update.looking.known import Keyed, Known

AGAIN = "again:"
"""How the origin begins of what was looked at because somebody asked: it is parsed again, too."""

_HEAD_BYTES = 8_192
Row = dict[str, Any]


@dataclass(slots=True)
class Look:
    """One look at one source.

    Args:
        section: the source's configuration.
        source: the source itself.
        labels: its access rules.
        keep: called with the bytes of each document that was fetched, before its event is given.
        hints: only what these name; None: everything.
        asked: uris whose bytes are to be read in any case.
        detected: when it was first heard of each uri; others count from the look's start.
        thorough: read every document.
        progress: called with (documents listed or fetched, how many there will be; 0: unknown).
    """

    section: SourceSection
    source: Source
    labels: SourceLabels
    keep: Callable[[bytes], object]
    hints: Sequence[Hint] | None = None
    asked: frozenset[str] = frozenset()
    detected: dict[str, datetime] = field(default_factory=dict)
    thorough: bool = False
    progress: Progress | None = None

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    listed: int = 0
    unchanged: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    complete: bool = True
    failures: list[Failure] = field(default_factory=list)
    _origin: str = field(default_factory=lambda: f"look:{uuid.uuid4().hex}")

    def listing(self) -> Listing:
        """What is there now of what is looked at.

        Raises:
            SourceError: the source could not be read; nothing may be inferred.
        """
        if self.hints is None:
            return self.source.list(progress=self.progress)
        return self.source.look(self.hints)

    def events(self, known: Known, listing: Listing) -> Iterator[Event]:
        """What differs: documents that are there first, and those that are gone last.

        Args:
            known: what is known of it; see `known_documents`.
            listing: what is there now.
        """
        decision = decide(
            known.table,
            listing,
            None,
            labels=self.labels,
            source=self.section.name,
            thorough=self.thorough,
            asked=self.asked,
        )
        self.listed, self.unchanged, self.complete = len(listing.items), decision.unchanged, listing.complete
        self.failures += [
            Failure(self.section.name, p.uri, "list", p.error_class, p.message, transient=p.transient)
            for p in listing.problems
        ]
        readers = _reported(listing)
        previous = known.rows(_touched(decision))
        looked = Keyed(decision.look, "uri")
        if readers:  # what the rules say is applied without a look
            for row in decision.relabelled.to_pylist():
                if row["uri"] not in looked:
                    yield self._relabelled(previous[row["doc_id"]], readers)
        again: list[Event] = []
        found = False
        for answer in self.source.fetch(list(looked)):
            event = self._answered(answer, looked, previous, readers)
            if self.progress is not None:
                self.progress(self.fetched, len(looked))
            if event is None:
                continue
            before = previous.get(looked[event.uri]["doc_id"])
            if event.type == "observed" and before is not None and self._same(event, before):
                self.unchanged += 1
                if before["modified_at"] != event.modified_at:
                    again.append(event)
                continue
            found = True
            yield event
        gone = decision.deleted["uri"].to_pylist()
        if found or gone:  # a time stamp that can be trusted now is alone no reason to write
            yield from again
        for uri in gone:
            yield self._event("absent", uri)

    def _answered(
        self, answer: Fetched | FetchFailure, looked: Keyed, previous: Keyed, readers: dict[str, Any]
    ) -> Event | None:
        if not isinstance(answer, Fetched):
            self.failures.append(
                Failure(
                    self.section.name,
                    answer.uri,
                    "fetch",
                    answer.error_class,
                    answer.message,
                    transient=answer.transient,
                )
            )
            before = previous.get(looked[answer.uri]["doc_id"])
            if readers and before is not None and before["acl_id"] != looked[answer.uri]["acl_id"]:
                return self._relabelled(before, readers)  # its bytes stay as they were served, its readers do not
            return None
        self.keep(answer.content)
        self.fetched += 1
        self.fetched_bytes += len(answer.content)
        return self._event(
            "observed",
            answer.uri,
            stored=content_hash(answer.content),
            size_bytes=answer.size_bytes,
            etag=answer.etag,
            modified_at=answer.modified_at,
            media_type=answer.media_type or detect_media_type(answer.content[:_HEAD_BYTES], answer.name),
            attributes=dict(answer.metadata),
            readers=readers.get(answer.uri),
        )

    def _relabelled(self, known: Row, readers: dict[str, Any]) -> Event:
        return self._event(
            "observed",
            known["uri"],
            stored=known["quarantined_hash"] or known["content_hash"],
            size_bytes=known["size_bytes"],
            etag=known["etag"],
            modified_at=known["modified_at"],
            media_type=known["media_type"],
            attributes=json.loads(known["metadata"]),
            readers=readers.get(known["uri"]),
        )

    def _same(self, event: Event, known: Row) -> bool:
        """Whether a document that was read is as it was known, but for a time stamp that nobody trusted."""
        if known["status"] == manifest.DELETED or event.uri in self.asked:
            return False
        newest = known["quarantined_hash"] or known["content_hash"]
        if event.readers is not None:  # what the rules say is applied without a look
            reported = pa.chunked_array([[event.readers]], pa.list_(pa.string()))
            if int(self.labels.acl_ids(pa.chunked_array([[event.uri]]), reported)[0]) != known["acl_id"]:
                return False
        return (
            event.stored == newest
            and event.size_bytes == known["size_bytes"]
            and event.etag == known["etag"]
            and known["modified_at"] in (None, event.modified_at)
            and json.loads(known["metadata"]).items() >= dict(event.attributes).items()
        )

    def _event(self, kind: Any, uri: str, **values: Any) -> Event:
        received = self.detected.get(uri, self.started_at)
        origin = AGAIN + self._origin if uri in self.asked else self._origin
        return Event(self.section.name, uri, kind, origin, received_at=received, **values)


def _reported(listing: Listing) -> dict[str, tuple[str, ...]]:
    """The readers that the source itself reports, by uri; empty when it reports none."""
    items = listing.items
    if not listing.reports_readers and items["readers"].null_count == len(items):
        return {}
    told = items.filter(items["readers"].is_valid())
    return {
        uri: tuple(readers) for uri, readers in zip(told["uri"].to_pylist(), told["readers"].to_pylist(), strict=True)
    }


def _touched(decision: Decision) -> pa.ChunkedArray:
    """The known documents that the decision is about."""
    columns = [decision.relabelled["doc_id"], decision.look["doc_id"].drop_null()]
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
