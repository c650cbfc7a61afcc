"""What is known of a source: its rows of the manifest, with everything over them that was found and not applied yet.

A look compares with this, so that it finds nothing twice, and notices when a document is again as the manifest says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.governance.access import SourceLabels
from pipelines.identity import doc_id
from pipelines.lake import manifest
from pipelines.lake.events import EventLog
from pipelines.lake.schemas import DOCUMENTS
from pipelines.lake.tables import Lake
from pipelines.sources.base import Hint
from pipelines.update.progress import Progress

_FEW = 32  # subtrees that are looked for one by one


def latest(events: pa.Table) -> pa.Table:
    """The newest event of each uri; the events are in the order of their sequence."""
    if not len(events):
        return events
    numbered = events.select(["uri"]).append_column("row", pa.array(np.arange(len(events))))
    rows = numbered.group_by("uri").aggregate([("row", "max")])["row_max"]
    return events.take(rows.take(pc.array_sort_indices(rows)))


def known_documents(
    lake: Lake, events: EventLog, progress: Progress, labels: SourceLabels, hints: Sequence[Hint] | None = None
) -> pa.Table:
    """Rows of `documents`, deleted ones included, as they will be when everything found is applied.

    Args:
        lake: the tables.
        events: the log of what was found.
        progress: read before this is called, so that nothing that is applied meanwhile is missed.
        labels: today's access rules of the source.
        hints: only what these name; None: the whole source.
    """
    waiting = latest(events.after(progress.source, progress.applied_sequence, ("observed", "absent")))
    rows = lake.read(manifest.TABLE, where=pc.field("source") == progress.source)
    if hints is not None:
        rows, waiting = (table.filter(pa.array(hinted(table["uri"], hints))) for table in (rows, waiting))
    if not len(waiting):
        return rows
    overlaid = rows.filter(pc.invert(pc.is_in(rows["uri"], value_set=waiting["uri"].combine_chunks())))
    return pa.concat_tables([overlaid, _as_documents(rows, waiting, labels, progress.source)])


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
    below = np.fromiter((_below(uri, folders) for uri in uris.to_pylist()), np.bool_, len(uris))
    found |= below
    return found


def _below(uri: str, folders: Collection[str]) -> bool:
    end = uri.find("/")
    while end >= 0:
        if uri[:end] in folders:
            return True
        end = uri.find("/", end + 1)
    return False


def _as_documents(rows: pa.Table, waiting: pa.Table, labels: SourceLabels, source: str) -> pa.Table:
    """Found documents as the rows that they will become."""
    before = {row["uri"]: row for row in rows.filter(_in(rows["uri"], waiting["uri"])).to_pylist()}
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
