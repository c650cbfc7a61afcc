"""The index on Milvus, through one client that serves Milvus Lite's loopback process and a server alike.

Two things differ by server, and only here: which dense index a new collection gets, and how long "indexed" takes.
"""

from __future__ import annotations

import gc
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.errors import IndexMismatch, IndexUnavailable
from pipelines.index import filters
from pipelines.index.connection import Connection
from pipelines.index.filters import PORTION, any_string, portions, shown
from pipelines.index.protocol import (
    REVISION,
    UNFILTERED,
    AccessFilter,
    Progress,
    Ranking,
    SparseVector,
    State,
    Vectors,
)
from pipelines.index.rows import HIT_FIELDS, MAX_STRING_BYTES, SCALAR_ROW, STORED_SCALARS
from pipelines.index.wire import NO_TERM, check_rows, from_wire, wire_portions
from pipelines.lake.portions import Portion

if TYPE_CHECKING:
    pass

_STATE = "lockstep.state"  # collection property
_ID_BYTES = 64
_IDENTITIES = ("chunk_id", "doc_id", "text_hash", "row_hash")
_EVERYTHING = [*STORED_SCALARS, "dense", "sparse"]
_QUERIES_A_REQUEST = 256  # bounds the server's score matrix: 256 x 20,000 rows x 4 bytes = 20 MB
_PAGE_ROWS = 8_192  # a server refuses pages above 16,384
_POLL_SECONDS = 0.2


class MilvusIndex(Connection):
    """`Index` on a Milvus Lite process or a Milvus server. Connects on first use; not to be shared across a fork."""

    # --- collections and aliases ---

    def create(self, collection: str, dimension: int) -> None:
        """See `Index.create`. On a server the tenant is the partition key: a search looks at no other tenant's rows."""
        from pymilvus import DataType, MilvusClient

        if self.exists(collection):
            raise IndexMismatch(f"creating collection {collection!r}: there is one of that name; drop it first")
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        for name in STORED_SCALARS:
            if pa.types.is_integer(SCALAR_ROW.field(name).type):
                schema.add_field(name, DataType.INT64)
            else:
                length = _ID_BYTES if name in _IDENTITIES else MAX_STRING_BYTES
                own = {"is_primary": name == "chunk_id", "is_partition_key": name == "tenant" and not self._is_lite}
                schema.add_field(name, DataType.VARCHAR, max_length=length, **own)
        schema.add_field("dense", DataType.FLOAT_VECTOR, dim=dimension)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        self._call(
            f"creating collection {collection!r}",
            self._client.create_collection,
            collection,
            schema=schema,
            index_params=None if self._is_lite else self._index_params(),
            consistency_level="Strong",
        )

    def _index_params(self) -> Any:
        """Graph and inverted index for a server. Lite gets none: it is searched exactly, see `lite_search`."""
        params = self._client.prepare_index_params()
        params.add_index("dense", index_type="HNSW", metric_type="IP", params={"M": 16, "efConstruction": 200})
        params.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP", params={})
        return params

    def drop(self, collection: str) -> None:
        """See `Index.drop`."""
        if not self.exists(collection):
            return
        doing = f"dropping collection {collection!r}"
        aliases = self._call(doing, self._client.list_aliases, collection)["aliases"]
        if aliases:
            raise IndexMismatch(
                f"{doing}: readers use it through alias {', '.join(aliases)}; point the alias at another slot first"
            )
        # A kill in the middle leaves some of its files: what is left must not claim to hold a snapshot.
        self._call(doing, self._client.alter_collection_properties, collection, {_STATE: ""})
        self._call(doing, self._client.drop_collection, collection)

    def exists(self, collection: str) -> bool:
        """See `Index.exists`. Lite describes from memory a collection whose folder is gone, but does not list it."""
        return collection in self.collections()

    def collections(self) -> list[str]:
        """See `Index.collections`."""
        return sorted(self._call("listing collections", self._client.list_collections))

    def alias_target(self, alias: str) -> str | None:
        """See `Index.alias_target`."""
        found = self._find(f"resolving alias {alias!r}", self._client.describe_alias, alias)
        return None if found is None else str(found["collection_name"])

    def point_alias(self, alias: str, collection: str) -> None:
        """See `Index.point_alias`."""
        doing = f"pointing alias {alias!r} at {collection!r}"
        if not self.exists(collection):
            raise IndexMismatch(f"{doing}: there is no such collection; build it first")
        move = self._client.create_alias if self.alias_target(alias) is None else self._client.alter_alias
        self._call(doing, move, collection, alias)

    # --- rows ---

    def upsert(self, collection: str, rows: pa.Table, progress: Progress | None = None) -> None:
        """See `Index.upsert`."""
        check_rows(collection, rows)
        done = 0
        for portion in wire_portions(rows):
            self._replace(collection, portion)
            done += len(portion)
            if progress:
                progress(done, rows.num_rows)

    def _replace(self, collection: str, portion: list[dict[str, Any]]) -> None:
        """Lite replaces rows by their key. A server with a partition key does so by two requests.

        Measured with 2.3.5: an upsert there leaves rows in a partition in which no search for their tenant looks.
        """
        doing = f"writing rows to {collection!r}"
        if self._is_lite:
            self._call(doing, self._client.upsert, collection, portion)
            return
        self.delete(collection, [row["chunk_id"] for row in portion])
        self._call(doing, self._client.insert, collection, portion)

    def delete(self, collection: str, chunk_ids: Sequence[str]) -> None:
        """See `Index.delete`."""
        for portion in portions(chunk_ids):
            expression = any_string("chunk_id", portion)
            self._call(f"removing rows from {collection!r}", self._client.delete, collection, filter=expression)

    def row_hashes(self, collection: str, doc_ids: Sequence[str] | None = None) -> dict[str, str]:
        """See `Index.row_hashes`."""
        fields = ["chunk_id", "row_hash"]
        found = self._all(collection, fields) if doc_ids is None else self._of(collection, "doc_id", doc_ids, fields)
        return {row["chunk_id"]: row["row_hash"] for row in found}

    def rows(self, collection: str, doc_ids: Sequence[str] | None = None) -> pa.Table:
        """See `Index.rows`."""
        fields = list(STORED_SCALARS)
        found = self._all(collection, fields) if doc_ids is None else self._of(collection, "doc_id", doc_ids, fields)
        tables = [SCALAR_ROW.empty_table()]
        while page := list(islice(found, _PAGE_ROWS)):  # as dictionaries rows are six times as large
            tables.append(pa.Table.from_pylist(page, schema=SCALAR_ROW))
        return pa.concat_tables(tables).sort_by("chunk_id")

    def stored(self, collection: str, wanted: Portion | Sequence[str]) -> Iterator[pa.Table]:
        """See `Index.stored`."""
        if isinstance(wanted, Portion):
            found = self._all(collection, ["chunk_id"], filters.within("doc_id", wanted))
        else:
            found = self._of(collection, "doc_id", wanted, ["chunk_id"])
        keys = (row["chunk_id"] for row in found)
        doing = f"reading rows of {collection!r}"
        while page := list(islice(keys, PORTION)):
            expression = any_string("chunk_id", page)
            yield from_wire(
                self._call(doing, self._client.query, collection, filter=expression, output_fields=_EVERYTHING)
            )

    def fetch(self, collection: str, chunk_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """See `Index.fetch`."""
        found = self._of(collection, "chunk_id", chunk_ids, ["chunk_id", *HIT_FIELDS])
        return {row["chunk_id"]: {name: row[name] for name in HIT_FIELDS} for row in found}

    def count(self, collection: str) -> int:
        """See `Index.count`."""
        doing = f"counting rows of {collection!r}"
        return int(self._call(doing, self._client.query, collection, output_fields=["count(*)"])[0]["count(*)"])

    def _of(self, collection: str, field: str, values: Sequence[str], fields: list[str]) -> Iterator[dict[str, Any]]:
        for portion in portions(values):
            expression = any_string(field, portion)
            doing = f"reading rows of {collection!r}"
            yield from self._call(doing, self._client.query, collection, filter=expression, output_fields=fields)

    def _all(self, collection: str, fields: list[str], expression: str = "") -> Iterator[dict[str, Any]]:
        doing = f"reading {'all ' if not expression else ''}rows of {collection!r}"
        pages = self._call(
            doing,
            self._client.query_iterator,
            collection,
            batch_size=_PAGE_ROWS,
            filter=expression,
            output_fields=fields,
        )
        try:
            while page := self._call(doing, pages.next):
                yield from page
        finally:
            pages.close()

    def wait_until_indexed(self, collection: str, timeout_seconds: float) -> None:
        """See `Index.wait_until_indexed`. Our Lite process answers a flush when all background work is done."""
        doing = f"waiting until {collection!r} is indexed"
        deadline = time.monotonic() + timeout_seconds
        self._call(doing, self._client.flush, collection, timeout=timeout_seconds)
        for name in self._call(doing, self._client.list_indexes, collection):
            while pending := self._pending_rows(doing, collection, name):
                if time.monotonic() > deadline:
                    raise IndexUnavailable(
                        f"{doing}: {pending} rows of {name!r} are still pending after {timeout_seconds:.0f} s; "
                        "run the update again, it continues from here"
                    )
                time.sleep(_POLL_SECONDS)

    def _pending_rows(self, doing: str, collection: str, name: str) -> int:
        described = self._call(doing, self._client.describe_index, collection, name)
        finished = described.get("state") == "Finished"
        return int(described.get("pending_index_rows") or 0) or (0 if finished else 1)

    # --- the slot's own record ---

    def write_state(self, collection: str, state: Mapping[str, Any]) -> None:
        """See `Index.write_state`."""
        value = json.dumps({**state, REVISION: uuid.uuid4().hex}, sort_keys=True)
        doing = f"recording the state of {collection!r}"
        self._call(doing, self._client.alter_collection_properties, collection, {_STATE: value})

    def read_state(self, collection: str) -> State | None:
        """See `Index.read_state`."""
        described = self._describe(collection)
        value = (described or {}).get("properties", {}).get(_STATE)
        return json.loads(value) if value else None

    def _describe(self, collection: str) -> dict[str, Any] | None:
        return self._find(f"reading the state of {collection!r}", self._client.describe_collection, collection)

    # --- search ---

    def search_dense(self, collection: str, vectors: Vectors, *, visible: AccessFilter, limit: int) -> list[Ranking]:
        """See `Index.search_dense`."""
        data = list(vectors)
        # A server's graph search needs room when a filter hides most of what it walks over.
        return self._search(collection, "dense", data, visible, limit, {"ef": max(256, 2 * limit)})

    def search_sparse(
        self, collection: str, vectors: Sequence[SparseVector], *, visible: AccessFilter, limit: int
    ) -> list[Ranking]:
        """See `Index.search_sparse`."""
        data = [{int(t): float(w) for t, w in vector.items() if w > 0 and t != NO_TERM} for vector in vectors]
        asked = [position for position, vector in enumerate(data) if vector]
        found = self._search(collection, "sparse", [data[position] for position in asked], visible, limit, {})
        rankings = [Ranking((), ())] * len(data)
        for position, ranking in zip(asked, found, strict=True):
            rankings[position] = ranking
        return rankings

    def _search(
        self, collection: str, field: str, data: list[Any], visible: AccessFilter, limit: int, params: dict[str, Any]
    ) -> list[Ranking]:
        if visible is not UNFILTERED and not visible:
            return [Ranking((), ())] * len(data)
        expression = "" if visible is UNFILTERED else shown(visible)
        rankings = []
        for start in range(0, len(data), _QUERIES_A_REQUEST):
            with _uncollected():
                found = self._call(
                    f"searching {collection!r}",
                    self._client.search,
                    collection,
                    data=data[start : start + _QUERIES_A_REQUEST],
                    anns_field=field,
                    filter=expression,
                    limit=limit,
                    output_fields=["chunk_id"],
                    search_params={"metric_type": "IP", "params": params},
                )
                rankings += [Ranking(tuple(hits.ids), tuple(hits.distances)) for hits in found]
        return rankings


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection while the client makes three objects of every hit: it would be 60% of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
