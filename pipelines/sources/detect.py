"""What an update has to look at: a listing compared with the manifest, as columns and without any input or output.

Nothing is read here and nothing is written. The caller fetches what `look` names, hashes it, and compares it with
`content_hash` and `quarantined_hash`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import MassDeletionRefused
from pipelines.lake.memory import give_back
from pipelines.lake.schemas import DOCUMENTS
from pipelines.sources.addresses.uris import below
from pipelines.sources.base import ITEMS, Listing
from pipelines.sources.section import GuardConfig

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

RACY_MICROSECONDS = 2_000_000
"""A time stamp this close to the manifest's own proves nothing: a clock may run ahead, or count in seconds."""

LOOK = pa.schema(
    [
        *(ITEMS.field(name) for name in ("uri", "size_bytes", "etag", "modified_at", "metadata")),
        pa.field("acl_id", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # new | returned | changed | racy | asked
        pa.field("doc_id", pa.string()),  # this and the two below are null for a document that is new
        pa.field("content_hash", pa.string()),
        pa.field("quarantined_hash", pa.string()),
    ]
)

RELABELLED = pa.schema([DOCUMENTS.field(name) for name in ("doc_id", "uri", "acl_id", "tenant", "classification")])

GONE = pa.schema([DOCUMENTS.field(name) for name in ("doc_id", "uri")])


class Labels(Protocol):
    """What the configuration says about documents; see `pipelines.governance.access.SourceLabels`."""

    tenant: str
    classification: str

    def acl_ids(self, uris: pa.ChunkedArray, reported: pa.ChunkedArray | None = None) -> Ints:
        """The access set of each uri."""
        ...

    def covered(self, uris: pa.ChunkedArray) -> Bools:
        """Whether a rule decides about each uri."""
        ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done.

    `look` (LOOK): documents whose bytes must be read. `relabelled` (RELABELLED): known documents with new access,
    tenant or classification, whether or not they are in `look`. `deleted` (GONE): documents that are not there any
    more. `unchanged`: documents that need no look. `kept`: documents that were not seen and may still be there.
    """

    look: pa.Table
    relabelled: pa.Table
    deleted: pa.Table
    unchanged: int
    kept: int


def decide(
    previous: pa.Table,
    listing: Listing,
    guard: GuardConfig | None,
    *,
    labels: Labels,
    source: str = "",
    approve_deletions: bool = False,
    thorough: bool = False,
    asked: frozenset[str] = frozenset(),
) -> Decision:
    """What differs between the manifest's rows of one source and what the source holds now.

    Equal etags, or without etags equal size and modification time, mean that nothing changed. A time stamp that is
    not at least two seconds older than its row's `updated_at` is not believed. Size, etag and time of a row are those
    of the content that was fetched last, also when that content is quarantined; so it is not fetched again.

    Args:
        previous: rows of `documents` of this source, deleted ones included; each uri once.
        listing: what the source holds.
        guard: how much may be deleted without a word from the operator; None: somebody else asks.
        labels: the source's access rules, tenant and classification.
        source: its name, for messages.
        approve_deletions: the operator has said that the documents may go.
        thorough: look at every listed document.
        asked: uris to look at in any case.

    Raises:
        MassDeletionRefused: more would be deleted than `guard` allows, or everything.
    """
    items = listing.items
    known = pc.not_equal(previous["status"], "deleted").to_numpy().astype(np.bool_)
    at = _positions(items["uri"], previous["uri"])  # row of `previous` for each item, or -1
    listed = np.zeros(len(previous), np.bool_)
    listed[at[at >= 0]] = True

    reasons = _reasons(previous, items, at, known, thorough=thorough)
    if asked:
        wanted = pc.is_in(items["uri"], value_set=pa.array(sorted(asked), pa.string())).to_numpy().astype(np.bool_)
        reasons[(reasons == 0) & wanted] = _ASKED
    rows = np.flatnonzero(reasons > 0)
    absent = np.flatnonzero(known & ~listed)
    gone = absent[~_protected(previous["uri"].take(pa.array(absent)), listing)]
    if listing.gone is not None:
        said = pc.is_in(previous["uri"].take(pa.array(gone)), value_set=listing.gone.combine_chunks())
        gone = gone[said.to_numpy().astype(np.bool_)]
    if guard is not None and not approve_deletions:
        guard_deletions(previous, gone, guard, source=source, left=len(items))

    acl = np.empty(len(previous), np.int64)  # only the rows of documents that stay are filled
    acl_items = labels.acl_ids(items["uri"], items["readers"])
    acl[at[at >= 0]] = acl_items[at >= 0]
    kept = np.setdiff1d(absent, gone, assume_unique=True)
    if len(kept):
        acl[kept] = _unlisted(previous, kept, labels, listing)
    known[gone] = False
    return Decision(
        look=_look(previous, items, rows, at, reasons, acl_items),
        relabelled=_relabelled(previous, np.flatnonzero(known), acl, labels),
        deleted=previous.select(GONE.names).take(pa.array(gone)).cast(GONE),
        unchanged=len(items) - len(rows),
        kept=len(kept),
    )


_NARROW_BYTES = 1 << 30

_REASONS = ("unchanged", "new", "returned", "changed", "racy", "asked")
_NEW, _RETURNED, _CHANGED, _RACY, _ASKED = range(1, 6)


def _positions(values: pa.ChunkedArray, among: pa.ChunkedArray) -> Ints:
    """Where each value stands among others: int64, -1 for nowhere."""
    if values.nbytes + among.nbytes > _NARROW_BYTES:  # 64-bit offsets: the uris of one source may pass 2 GiB
        values, among = values.cast(pa.large_string()), among.cast(pa.large_string())
    found = pc.index_in(values, value_set=among.combine_chunks())
    if len(among) > _PART_ROWS:
        give_back()  # the pool would keep the table of hashes: 100 MB of a million rows
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int64)


def _reasons(previous: pa.Table, items: pa.Table, at: Ints, known: Bools, *, thorough: bool) -> npt.NDArray[np.int8]:
    """For each item why it must be looked at, as a position in _REASONS; 0: it need not."""
    reasons = np.full(len(items), _NEW, np.int8)
    rows = np.flatnonzero(at >= 0)
    reasons[rows] = _RETURNED
    rows = rows[known[at[rows]]]
    old = at[rows]
    sizes_now, sizes_then = _numbers(items["size_bytes"])[rows], _numbers(previous["size_bytes"])[old]
    times_now, times_then = _numbers(items["modified_at"])[rows], _numbers(previous["modified_at"])[old]
    same = (sizes_now == sizes_then) & (times_now == times_then) & (sizes_now >= 0) & (times_now != _NONE)
    racy = same & (times_now > _numbers(previous["updated_at"])[old] - RACY_MICROSECONDS)
    if items["etag"].null_count < len(items) and previous["etag"].null_count < len(previous):
        both, equal = _equal(items["etag"], rows, previous["etag"], old)
        same, racy = np.where(both, equal, same), racy & ~both
    reasons[rows] = np.select([~same, racy], [_CHANGED, _RACY], _ASKED if thorough else 0)
    return reasons


def _equal(left: pa.ChunkedArray, at_left: Ints, right: pa.ChunkedArray, at_right: Ints) -> tuple[Bools, Bools]:
    """Of pairs of texts whether both are there, and whether they are equal; a part at a time, for memory's sake."""
    there, equal = np.zeros(len(at_left), np.bool_), np.zeros(len(at_left), np.bool_)
    one, other = left.combine_chunks(), right.combine_chunks()
    for start in range(0, len(at_left), _PART_ROWS):
        part = slice(start, start + _PART_ROWS)
        found = pc.equal(one.take(pa.array(at_left[part])), other.take(pa.array(at_right[part])))
        there[part] = found.is_valid().to_numpy(zero_copy_only=False)
        equal[part] = pc.fill_null(found, False).to_numpy(zero_copy_only=False)
    return there, equal


_PART_ROWS = 65_536
_NONE = np.iinfo(np.int64).min


def _numbers(column: pa.ChunkedArray) -> Ints:
    """Whole numbers (times: microseconds since 1970) as int64; null is the smallest of all."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    return np.asarray(pc.fill_null(column, int(_NONE)).to_numpy(), np.int64)


def _protected(absent: pa.ChunkedArray, listing: Listing) -> Bools:
    """For each uri that was not listed whether it may still be there: it, or a folder above it, is a problem."""
    exact = {problem.uri for problem in listing.problems}
    folders = {problem.uri for problem in listing.problems if problem.subtree}
    if not exact or not len(absent):
        return np.zeros(len(absent), np.bool_)
    if "" in folders:
        return np.ones(len(absent), np.bool_)
    return np.fromiter((uri in exact or below(uri, folders) for uri in absent.to_pylist()), np.bool_, len(absent))


def guard_deletions(
    previous: pa.Table,
    gone: Ints,
    guard: GuardConfig,
    *,
    source: str,
    left: int,
    since: datetime | None = None,
    moved: int = 0,
) -> None:
    """Refuse to delete more of a source than the guard allows without a word from the operator.

    Args:
        previous: rows of `documents` of this source, deleted ones included.
        gone: positions of those that would be deleted.
        guard: how much may go.
        source: its name, for the message.
        left: documents that the source would have afterwards.
        since: count deletions of that time and later too, so that many small ones are one large one.
        moved: how many of those that would go are there under another name; for the message alone: a folder that is
            mounted one level higher moves everything, out of reach of the access rules too.

    Raises:
        MassDeletionRefused: more would go, or everything.
    """
    served = pc.equal(previous["status"], "active").to_numpy().astype(np.bool_)
    total, lost = int(served.sum()), int(served[gone].sum())
    before = 0 if since is None or not lost else _deleted_since(previous, since)
    share = (lost + before) / (total + before) if total else 0.0
    emptied = lost > 0 and left == 0 and lost == total
    if share <= guard.max_deleted_share or not (total + before >= guard.min_documents or emptied):
        return
    examples = ", ".join(previous["uri"].take(pa.array(gone[:3])).to_pylist())
    found = "the source is empty now" if emptied else f"{left:,} documents are there now"
    if moved:
        found += f" ({moved:,} of the missing ones among them, under another name)"
    also = f", {before:,} more within {guard.window_seconds:.0f} s before," if before else ""
    raise MassDeletionRefused(
        f"source {source!r}: an update would delete {lost:,} of {total:,} documents{also} ({share:.0%}), and "
        f"`guard.max_deleted_share` allows {guard.max_deleted_share:.0%}; {found}, and missing is for instance "
        f"{examples}. Nothing was deleted. If the source is not mounted or not complete, restore it and run the update "
        f"again; if the documents shall go, run `lockstep approve {source}` and the update again, or "
        "`lockstep update --approve-deletions`",
        doc_ids=tuple(previous["doc_id"].take(pa.array(gone)).to_pylist()),
        total=total,
    )


def _deleted_since(previous: pa.Table, since: datetime) -> int:
    if "deleted_at" not in previous.schema.names:
        return 0
    recent = pc.and_(pc.equal(previous["status"], "deleted"), pc.greater(previous["deleted_at"], since))
    return int(pc.sum(pc.fill_null(recent, False)).as_py() or 0)


def _unlisted(previous: pa.Table, rows: Ints, labels: Labels, listing: Listing) -> Ints:
    """Access sets of documents that were not seen; what only the source could say about them stays as it was."""
    uris = previous["uri"].take(pa.array(rows))
    before = np.array(previous["acl_id"].take(pa.array(rows)).to_numpy(), np.int64)  # a copy: some are replaced
    if not listing.reports_readers:
        return labels.acl_ids(uris).astype(np.int64)
    covered = labels.covered(uris)
    if covered.any():
        before[covered] = labels.acl_ids(uris.filter(pa.array(covered)))
    return before


def _look(
    previous: pa.Table, items: pa.Table, rows: Ints, at: Ints, reasons: npt.NDArray[np.int8], acl: Ints
) -> pa.Table:
    picked = items.take(pa.array(rows))
    old = pa.array(at[rows], mask=at[rows] < 0)
    columns = {name: picked[name] for name in ("uri", "size_bytes", "etag", "modified_at", "metadata")}
    columns["acl_id"] = pa.array(acl[rows], pa.int64())
    columns["reason"] = pa.array(_REASONS).take(pa.array(reasons[rows]))
    for name in ("doc_id", "content_hash", "quarantined_hash"):
        columns[name] = previous[name].take(old)
    return pa.table(columns).cast(LOOK)


def _relabelled(previous: pa.Table, rows: Ints, acl: Ints, labels: Labels) -> pa.Table:
    differs = np.asarray(previous["acl_id"].to_numpy())[rows] != acl[rows]
    for name, value in (("tenant", labels.tenant), ("classification", labels.classification)):
        differs |= pc.not_equal(previous[name], value).to_numpy().astype(np.bool_)[rows]
    changed = rows[differs]
    picked = previous.select(GONE.names).take(pa.array(changed))
    columns = {
        "doc_id": picked["doc_id"],
        "uri": picked["uri"],
        "acl_id": pa.array(acl[changed], pa.int64()),
        "tenant": pa.repeat(labels.tenant, len(changed)),
        "classification": pa.repeat(labels.classification, len(changed)),
    }
    return pa.table(columns).cast(RELABELLED)
