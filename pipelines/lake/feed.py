"""The change feed of a table as it is told: what a commit did to rows, and not where it put them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.schemas import TABLES

KIND, COMMIT = "_change_type", "_commit_version"


def schema_of(name: str) -> pa.Schema:
    """The columns of a table's feed."""
    return TABLES[name].append(pa.field(KIND, pa.string())).append(pa.field(COMMIT, pa.int64()))


def without_views(schema: pa.Schema) -> pa.Schema:
    """The schema with plain strings: what a merge wrote reads back as views, which few kernels take."""
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return pa.schema([field.with_type(views.get(field.type, field.type)) for field in schema])


def as_told(name: str, feed: pa.Table, key: str) -> pa.Table:
    """A feed as Delta gives it, in our schema, without the rows that a commit removed and added again as they were.

    A commit that only lays a table out anew does that to every row.
    """
    schema = schema_of(name)
    for field in schema:
        if field.nullable and field.name not in feed.schema.names:
            feed = feed.append_column(field, pa.nulls(len(feed), field.type))
    return _without_moved(feed.select(schema.names).cast(schema), TABLES[name], key)


def _without_moved(feed: pa.Table, schema: pa.Schema, key: str) -> pa.Table:
    removed = feed.filter(pc.equal(feed[KIND], "delete"))
    added = feed.filter(pc.equal(feed[KIND], "insert"))
    if not len(removed) or not len(added):
        return feed
    at = pc.index_in(_row_keys(added, key), value_set=_row_keys(removed, key).combine_chunks())
    again = added.filter(at.is_valid())
    before = removed.take(at.drop_null())
    same = pa.chunked_array([pa.repeat(True, len(again))])
    for name in schema.names:
        one, other = again[name], before[name]
        equal = pc.or_(pc.fill_null(pc.equal(one, other), False), pc.and_(one.is_null(), other.is_null()))
        same = pc.and_(same, equal)
    moved = _row_keys(again.filter(same), key).combine_chunks()
    whole = pc.is_in(feed[KIND], value_set=pa.array(["delete", "insert"]))
    return feed.filter(pc.invert(pc.and_(whole, pc.is_in(_row_keys(feed, key), value_set=moved))))


def _row_keys(feed: pa.Table, key: str) -> pa.ChunkedArray:
    """Which row of which commit."""
    return pc.binary_join_element_wise(feed[COMMIT].cast(pa.string()), feed[key], "/")
