"""What is known of a source: its rows of the manifest, with everything over them that was found and not applied yet.

A look compares with this, so that it finds nothing twice, and notices when a document is again as the manifest says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.governance.access import SourceLabels
from pipelines.identity import doc_id
from pipelines.lake import manifest
from pipelines.lake.events import EventLog
from pipelines.lake.schemas import DOCUMENTS
from pipelines.lake.tables import Lake
from pipelines.sources.addresses.uris import below
from pipelines.sources.base import Hint
from pipelines.update.looking.progress import Progress

COMPARED = [
    *("doc_id", "uri", "status", "size_bytes", "etag", "modified_at", "updated_at"),
    *("acl_id", "tenant", "classification", "content_hash", "quarantined_hash"),
]
"""What a comparison needs; titles and metadata of a million documents are not held in memory for it."""

_FEW = 32  # subtrees that are looked for one by one


def latest(events: pa.Table) -> pa.Table:
    """The newest event of each uri; the events are in the order of their sequence."""
    if not len(events):
        return events
    numbered = events.select(["uri"]).append_column("row", pa.array(np.arange(len(events))))
    rows = numbered.group_by("uri").aggregate([("row", "max")])["row_max"]
    return events.take(rows.take(pc.array_sort_indices(rows)))


class Keyed:
    """A table's rows by one of its columns, each made a dictionary only when it is asked for.

    A thorough look has every document of a source at hand: as dictionaries 300,000 rows would take 600 MB.
    """

    def __init__(self, table: pa.Table, column: str) -> None:
        self._table = table.combine_chunks()
        self._at = {key: row for row, key in enumerate(table[column].to_pylist())}

    def __contains__(self, key: str) -> bool:
        return key in self._at

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def get(self, key: str | None) -> dict[str, Any] | None:
        """The row of that key, if there is one."""
        at = self._at.get(key) if key is not None else None
        if at is None:
            return None
        row: dict[str, Any] = self._table.slice(at, 1).to_pylist()[0]
        return row

    def __getitem__(self, key: str) -> dict[str, Any]:
        row = self.get(key)
        if row is None:
            raise KeyError(key)
        return row


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a source: `table` with the columns that a comparison needs, and whole rows when asked for."""

    table: pa.Table
    found: pa.Table  # whole rows of what waits to be applied
    lake: Lake

    def rows(self, doc_ids: pa.ChunkedArray) -> Keyed:
        """The whole rows of these documents by their id, as far as they are known."""
        wanted = doc_ids.combine_chunks()
        own = self.found.filter(pc.is_in(self.found["doc_id"], value_set=wanted))
        if not len(wanted):
            return Keyed(own, "doc_id")
        stored = self.lake.lookup(manifest.TABLE, wanted)
        stored = stored.filter(pc.invert(_in(stored["doc_id"], own["doc_id"])))
        return Keyed(pa.concat_tables([own, stored.cast(own.schema)]), "doc_id")


def known_documents(
    lake: Lake, events: EventLog, progress: Progress, labels: SourceLabels, hints: Sequence[Hint] | None = None
) -> Known:
    """The documents of a source, deleted ones included, as they will be when everything found is applied.

    Args:
        lake: the tables.
        events: the log of what was found.
        progress: read before this is called, so that nothing that is applied meanwhile is missed.
        labels: today's access rules of the source.
        hints: only what these name; None: the whole source.
    """
    waiting = latest(events.after(progress.source, progress.applied_sequence, ("observed", "absent")))
    rows = _stored(lake, progress.source, hints)
    if hints is not None:
        rows, waiting = (table.filter(pa.array(hinted(table["uri"], hints))) for table in (rows, waiting))
    if not len(waiting):
        return Known(rows, DOCUMENTS.empty_table(), lake)
    again = _in(rows["uri"], waiting["uri"])
    before = lake.lookup(manifest.TABLE, rows.filter(again)["doc_id"])
    found = _as_documents(before, waiting, labels, progress.source)
    return Known(pa.concat_tables([rows.filter(pc.invert(again)), found.select(COMPARED)]), found, lake)


def _stored(lake: Lake, source: str, hints: Sequence[Hint] | None) -> pa.Table:
    """The manifest's rows of a source, or at least those that the hints name."""
    if hints is not None and not any(hint.subtree for hint in hints):
        return lake.lookup(manifest.TABLE, [doc_id(source, hint.uri) for hint in hints], COMPARED)
    mine = pc.field("source") == source  # with that column among those that are read, no others are
    return lake.read(manifest.TABLE, [*COMPARED, "source"], where=mine).select(COMPARED)


def hinted(uris: pa.ChunkedArray, hints: Sequence[Hint]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each uri is one that the hints name, or lies below one."""
    exact = pa.array([hint.uri for hint in hints], pa.string())
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = pc.is_in(uris, value_set=exact).to_numpy().astype(np.bool_)
    folders = {hint.uri for hint in hints if hint.subtree}
    if "" in folders:
        return np.ones(len(uris), np.bool_)
    if len(folders) <= _FEW:
        for folder in folders:
            found |= pc.starts_with(uris, pattern=folder + "/").to_numpy().astype(np.bool_)
        return found
    inside = np.fromiter((below(uri, folders) for uri in uris.to_pylist()), np.bool_, len(uris))
    found |= inside
    return found


def _as_documents(rows: pa.Table, waiting: pa.Table, labels: SourceLabels, source: str) -> pa.Table:
    """Found documents as the rows that they will become."""
    before = {row["uri"]: row for row in rows.to_pylist()}
    acl_ids = labels.acl_ids(waiting["uri"], waiting["readers"])
    documents = []
    for event, acl_id in zip(waiting.to_pylist(), acl_ids.tolist(), strict=True):
        row = before.get(event["uri"]) or _new(source, event)
        if event["type"] == "absent":
            documents.append({**row, "status": manifest.DELETED, "deleted_at": event["received_at"]})
            continue
        found = {name: event[name] for name in ("content_hash", "size_bytes", "etag", "modified_at", "media_type")}
        own = {"tenant": labels.tenant, "classification": labels.classification, "acl_id": acl_id}
        state = {"status": manifest.ACTIVE, "quarantined_hash": None, "updated_at": event["received_at"]}
        documents.append({**row, **found, **own, **state, "metadata": event["attributes"]})
    return pa.Table.from_pylist(documents, schema=DOCUMENTS)


def _in(values: pa.ChunkedArray, among: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(values, value_set=among.combine_chunks())


def _new(source: str, event: dict[str, object]) -> dict[str, object]:
    empty: dict[str, object] = dict.fromkeys(DOCUMENTS.names)
    uri = str(event["uri"])
    return empty | {
        "doc_id": doc_id(source, uri),
        "source": source,
        "uri": uri,
        "tenant": "",
        "acl_id": 0,
        "classification": "",
        "media_type": "",
        "size_bytes": 0,
        "content_hash": "",
        "version": 0,
        "title": "",
        "metadata": "{}",
        "run_id": "",
        "updated_at": event["received_at"],
    }
