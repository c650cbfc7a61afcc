"""The manifest: which documents the index should contain, and what changed between two of its versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.portions import KeySet, Portion
from pipelines.lake.schemas import DOCUMENTS
from pipelines.lake.tables import Lake

TABLE = "documents"
ACTIVE = "active"
DELETED = "deleted"
QUARANTINED = "quarantined"  # known at the source, but no version of it could ever be parsed


# What a document's index rows are made from; sizes, times and runs come and go without touching the index.
_SEARCHED = ("source", "uri", "tenant", "acl_id", "classification", "media_type", "content_hash", "title")


@dataclass(frozen=True, slots=True)
class ManifestChanges:
    """The documents that differ between two manifest versions in what is searched: active ones, with all columns.

    A document that came is in `after` alone, one that went in `before` alone, one that changed in both. `passing` names
    those that came and went in between, when they were asked for.
    """

    before: pa.Table
    after: pa.Table
    passing: frozenset[str] = frozenset()

    @property
    def doc_ids(self) -> list[str]:
        """Every document touched, sorted."""
        return sorted({*self.before["doc_id"].to_pylist(), *self.after["doc_id"].to_pylist(), *self.passing})


def active_documents(
    lake: Lake,
    version: int | None = None,
    *,
    columns: Sequence[str] | None = None,
    portion: Portion | None = None,
    doc_ids: Iterable[str] | None = None,
) -> pa.Table:
    """The documents that should be searchable at a manifest version.

    Args:
        lake: the tables.
        version: None: the newest.
        columns: None: all.
        portion: only those whose ids are in it; files without any are not opened.
        doc_ids: only these, in the same way.
    """
    names = DOCUMENTS.names if columns is None else list(columns)
    if version is not None and version < 0:
        return DOCUMENTS.empty_table().select(names)
    active = pc.field("status") == ACTIVE
    wanted = portion if doc_ids is None else KeySet(doc_ids)
    if wanted is None:
        return lake.read(TABLE, names, where=active, version=version)
    return lake.lookup(TABLE, wanted, names, where=active, version=version)


def active_count(lake: Lake, version: int | None = None) -> int:
    """How many documents should be searchable at a manifest version."""
    return len(active_documents(lake, version, columns=["status"]))


def changes_between(lake: Lake, after: int, until: int, *, in_between: bool = False) -> ManifestChanges | None:
    """What happened to the active documents after one version up to another, from the change feed.

    Args:
        lake: the tables.
        after: the version that is known.
        until: the version that is wanted.
        in_between: name documents too that came and went, or are again as they were: a build that was interrupted on
            the way has written rows of what they were then.

    Returns:
        None when the feed does not reach back that far.
    """
    feed = lake.changes(TABLE, after, until)
    if feed is None:
        return None
    old = _images(feed, ("update_preimage", "delete"), earliest=True)
    new = _images(feed, ("update_postimage", "insert"), earliest=False)
    if in_between:
        others = set(feed["doc_id"].to_pylist()).difference(old["doc_id"].to_pylist(), new["doc_id"].to_pylist())
        return ManifestChanges(old, new, frozenset(others))
    same = _searched(old) & _searched(new)
    return ManifestChanges(_without(old, same), _without(new, same))


def _searched(documents: pa.Table) -> set[tuple[object, ...]]:
    return set(zip(*(documents[name].to_pylist() for name in ("doc_id", *_SEARCHED)), strict=True))


def _without(documents: pa.Table, same: set[tuple[object, ...]]) -> pa.Table:
    keys = zip(*(documents[name].to_pylist() for name in ("doc_id", *_SEARCHED)), strict=True)
    return documents.filter(pa.array([key not in same for key in keys], pa.bool_()))


def _images(feed: pa.Table, kinds: tuple[str, ...], *, earliest: bool) -> pa.Table:
    """Per document its state before the first change, or after the last one; the active states only."""
    order = "ascending" if earliest else "descending"
    # Of each document the outermost commit counts, whatever its kind: a document that was inserted first has no
    # state before, even if it was updated later.
    feed = feed.take(pc.sort_indices(feed, sort_keys=[("_commit_version", order)]))
    seen: dict[str, int] = {}
    rows: list[int] = []
    for row, (doc_id, kind, commit) in enumerate(
        zip(
            feed["doc_id"].to_pylist(),
            feed["_change_type"].to_pylist(),
            feed["_commit_version"].to_pylist(),
            strict=True,
        )
    ):
        if seen.setdefault(doc_id, commit) == commit and kind in kinds:
            rows.append(row)
    picked = feed.take(pa.array(rows, pa.int64())).select(DOCUMENTS.names).cast(DOCUMENTS)
    return picked.filter(pc.equal(picked["status"], ACTIVE))
