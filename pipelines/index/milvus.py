"""The index on Milvus, through one client that serves Milvus Lite's loopback process and a server alike.

Two things differ by server, and only here: which dense index a new collection gets, and how long "indexed" takes.
"""

from __future__ import annotations

import base64
import gc
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from pipelines.errors import IndexMismatch, IndexUnavailable
from pipelines.index import filters
from pipelines.index.address import Address
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
    from pymilvus import MilvusClient

T = TypeVar("T")

_STATE = "lockstep.state"  # collection property
_ID_BYTES = 64
_IDENTITIES = ("chunk_id", "doc_id", "text_hash", "row_hash")
_EVERYTHING = [*STORED_SCALARS, "dense", "sparse"]
_QUERIES_A_REQUEST = 256  # bounds the server's score matrix: 256 x 20,000 rows x 4 bytes = 20 MB
_PAGE_ROWS = 8_192  # a server refuses pages above 16,384
_NOT_FOUND = (4, 100, 1600)  # collection (old code, new code), alias
_REFUSED = (6, 1100)  # the request itself is wrong, and would be again
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.2

# One call may take this long; without it a server that hangs would hang us. A dead one fails at once: `_RETRIES`
# are for a connection that is being set up again.
_SERVICE_CONFIG = json.dumps({"methodConfig": [{"name": [{}], "timeout": "300s"}]})
_RETRIES = 3


class MilvusIndex:
    """`Index` on a Milvus Lite process or a Milvus server. Connects on first use; not to be shared across a fork."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @property
    def uri(self) -> str:
        """Where it is reached, for messages."""
        return self.address.uri

    @cached_property
    def _client(self) -> MilvusClient:
        from pymilvus import MilvusClient
        from pymilvus.client import entity_helper
        from pymilvus.exceptions import MilvusException

        # Its checks look at every character of a string, and twice at every entry of a sparse vector, which takes half
        # of the time of writing; `check_rows` has looked at all that they look for.
        entity_helper.CHECK_STR_ARRAY = False
        entity_helper.entity_is_sparse_matrix = _are_sparse
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises, and we report what it raises
        self._require_entry()
        try:
            return MilvusClient(
                self.uri,
                timeout=_CONNECT_SECONDS,
                token=self.address.token or "",
                dedicated=True,
                grpc_options={"grpc.service_config": _SERVICE_CONFIG},
            )
        except MilvusException as error:
            raise self._unavailable("connecting", error) from error

    def _require_entry(self) -> None:
        """Tell at once that the token is wrong: the client would try for ten seconds, and call that a lost connection.

        Raises:
            IndexUnavailable: the index does not accept the token.
        """
        import grpc  # type: ignore[import-untyped]  # it ships none
        from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

        if not self.uri.startswith("http://"):
            return  # with TLS the client's own error has to do
        token = base64.b64encode((self.address.token or "").encode())
        with grpc.insecure_channel(self.uri.removeprefix("http://").rstrip("/")) as channel:
            try:
                milvus_pb2_grpc.MilvusServiceStub(channel).GetVersion(
                    milvus_pb2.GetVersionRequest(), timeout=_CONNECT_SECONDS, metadata=(("authorization", token),)
                )
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise IndexUnavailable(
                        f"connecting: the index at {self.uri} does not accept the token that it was given. Of Milvus "
                        "Lite: run `lockstep stop` and the command again, as the user who owns LOCKSTEP_HOME; of a "
                        "server: correct the variable that `milvus.token_env` names"
                    ) from error

    @cached_property
    def _is_lite(self) -> bool:
        return str(self._call("asking for the version", self._client.get_server_version)).startswith("milvus_lite")

    def close(self) -> None:
        """Give the connection back; the next call opens another."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

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

    # --- errors ---

    def _find(self, doing: str, function: Callable[..., T], *args: Any) -> T | None:
        """The answer, or None when the server says that there is no such collection or alias."""
        try:
            return self._call(doing, function, *args)
        except IndexMismatch:
            return None

    def _call(self, doing: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the client; what it raises becomes one of our errors, with what was being done to what.

        Raises:
            IndexMismatch: there is no such collection or alias, or it cannot take this.
            IndexUnavailable: anything else.
        """
        import grpc
        from pymilvus.exceptions import MilvusException

        if getattr(function, "__self__", None) is self.__dict__.get("_client") and "timeout" not in kwargs:
            kwargs["retry_times"] = _RETRIES
        try:
            return function(*args, **kwargs)
        except MilvusException as error:
            if error.code in _NOT_FOUND + _REFUSED:
                raise IndexMismatch(f"{doing}: {error.message}") from error
            raise self._unavailable(doing, error) from error
        except grpc.RpcError as error:
            raise self._unavailable(doing, error) from error

    def _unavailable(self, doing: str, error: Exception) -> IndexUnavailable:
        return IndexUnavailable(
            f"{doing}: the index at {self.uri} did not answer as expected ({_reason(error)}); "
            "run the command again, which starts Milvus Lite when it is down; its log is server.log in the index folder"
        )


def _are_sparse(rows: Any) -> bool:
    """Whether these are sparse vectors, which we always give as dictionaries."""
    return len(rows) > 0 and isinstance(rows[0], dict)


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


def _reason(error: Exception) -> str:
    """The first sentence of a client's error, without its connection diagnostics."""
    text = str(getattr(error, "message", "") or getattr(error, "details", lambda: "")() or error)
    return text.split(", debug=")[0].strip()[:400]
