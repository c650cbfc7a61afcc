"""Which rows of a table one run added or changed, found through the table's log without reading the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.errors import LakeError
from pipelines.lake.schemas import TABLES
from pipelines.lake.tables import Lake

_RUN_ID = "lockstep.run_id"
_BATCH_ROWS = 4_096

# Every other table is only appended to: what a run added are the files that it added.
_WITH_CHANGE_FEED = frozenset({"documents"})
_SMALL = frozenset({"index_snapshots"})


def commits_of_run(lake: Lake, table: str, *, run_id: str, since_version: int | None) -> list[int]:
    """The versions of a table that a run committed after `since_version` (None: ever), ascending.

    Only the log is read: 5 ms, and 30 ms with `since_version=None` at 500 commits.
    """
    limit = None
    if since_version is not None:
        limit = lake.version(table) - since_version
        if limit <= 0:
            return []
    return sorted(
        version
        for commit in lake.history(table, limit)
        if commit.get(_RUN_ID) == run_id and isinstance(version := commit.get("version"), int)
    )


def rows_of_commits(
    lake: Lake, table: str, versions: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The rows that those commits added or changed, as the last of them left each; deleted rows are not among them.

    Raises:
        LakeError: the table is damaged, or what a commit added is no longer there.
    """
    if table in _WITH_CHANGE_FEED:
        return _from_feed(lake, table, versions, columns)
    if table in _SMALL:
        return _by_comparison(lake, table, versions, columns)
    return _from_added_files(lake, table, versions, columns)


def all_rows(lake: Lake, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Every row of a table, a batch at a time."""
    return lake.scan(table, columns, batch_rows=_BATCH_ROWS)


def _from_feed(lake: Lake, table: str, versions: Sequence[int], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    feed = lake.changes(table, versions[0] - 1, versions[-1])
    if feed is None:
        raise LakeError(
            f"the change feed of table {table!r} no longer reaches back to version {versions[0]}; check all rows "
            "instead (`lockstep update --full`)"
        )
    ours = pc.is_in(feed["_commit_version"], value_set=pa.array(versions, pa.int64()))
    after = pc.is_in(feed["_change_type"], value_set=pa.array(["insert", "update_postimage"]))
    feed = feed.filter(pc.and_(ours, after))
    newest = feed.group_by("doc_id").aggregate([("_commit_version", "max")])
    newest = newest.rename_columns({"_commit_version_max": "_commit_version"})
    feed = feed.join(newest, ["doc_id", "_commit_version"], join_type="left semi")
    yield from feed.select(columns).to_batches(max_chunksize=_BATCH_ROWS)


def _by_comparison(lake: Lake, table: str, versions: Sequence[int], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Of a small table whose rows are replaced by merging: those that are not as they were before."""
    changed: dict[object, dict[str, object]] = {}
    key = columns[0]
    for version in versions:
        before = lake.read(table, version=version - 1).to_pylist() if version else []
        known = {row[key]: row for row in before}
        after = lake.read(table, version=version).to_pylist()
        changed |= {row[key]: row for row in after if known.get(row[key]) != row}
    rows = pa.Table.from_pylist(list(changed.values()), schema=TABLES[table])
    yield from rows.select(columns).to_batches(max_chunksize=_BATCH_ROWS)


def _from_added_files(
    lake: Lake, table: str, versions: Sequence[int], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    for first, last in _blocks(versions):
        after = lake.files(table, last)
        known = {fragment.path for fragment in lake.files(table, first - 1).get_fragments()} if first else set()
        added = [fragment for fragment in after.get_fragments() if fragment.path not in known]
        dataset = ds.FileSystemDataset(added, after.schema, after.format, after.filesystem)
        try:
            yield from dataset.to_batches(columns=list(columns), batch_size=_BATCH_ROWS, batch_readahead=2)
        except (OSError, pa.ArrowException) as error:
            raise LakeError(
                f"table {table!r}: what its versions {first} to {last} added cannot be read: {error}; check all rows "
                "instead (`lockstep update --full`), or restore the folder from a backup"
            ) from error


def _blocks(versions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of consecutive versions: others' commits in between are left out."""
    first = previous = versions[0]
    for version in versions[1:]:
        if version != previous + 1:
            yield first, previous
            first = version
        previous = version
    yield first, previous
