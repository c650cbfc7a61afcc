"""How Milvus Lite's process answers: directly, where a ranking is asked for, or rows with their vectors by key.

Lite makes three dictionaries of every hit on its way into the answer; 200 questions with 100 candidates for each
half are 40,000 hits. Used inside the server process and nowhere else.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from milvus_lite.adapter.grpc.errors import (  # noqa: TID253  only the server process imports this module
    success_status_kwargs,
    to_status_kwargs,
)
from milvus_lite.adapter.grpc.servicer import MilvusServicer  # noqa: TID253  as above
from milvus_lite.adapter.grpc.translators.search import parse_search_request  # noqa: TID253  as above
from milvus_lite.exceptions import MilvusLiteError  # noqa: TID253  as above
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2  # noqa: TID253  as above

from pipelines.index.lite_search import Best, ExactCollection

# Of what `parse_search_request` returns; anything else that is set asks for more than a ranking.
_RANKING = {"query_vectors", "top_k", "metric_type", "expr", "output_fields", "anns_field", "search_params"}
_OTHERWISE = {"timezone", "time_fields", "limit", "offset", "iterator"}  # parameters of a query that is left to Lite
_UNSET = {"offset": 0, "round_decimal": -1, "function_chains": [], "has_function_score": False}


class ExactServicer(MilvusServicer):  # type: ignore[misc]  # milvus_lite ships no types
    """Lite's own service, with searches for primary keys answered by `ExactCollection.rank`."""

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802  the protocol's name
        """Answer one search request."""
        try:
            collection = self._get_collection(request, context)
            parsed = parse_search_request(request)
            ranked = self._rank(collection, parsed)
        except MilvusLiteError as error:
            return milvus_pb2.SearchResults(status=common_pb2.Status(**to_status_kwargs(error)))
        if ranked is None:
            return super().Search(request, context)
        return _results(collection, ranked, parsed["top_k"])

    def Query(self, request: Any, context: Any) -> Any:  # noqa: N802  the protocol's name
        """Answer one request for stored rows; with vectors in it, Lite's own way takes 40 times as long."""
        try:
            collection = self._get_collection(request, context)
            found = self._columns(collection, request)
        except MilvusLiteError as error:
            return milvus_pb2.QueryResults(status=common_pb2.Status(**to_status_kwargs(error)))
        return super().Query(request, context) if found is None else _stored(collection, found)

    def _columns(self, collection: Any, request: Any) -> pa.Table | None:
        fields = list(request.output_fields)
        more = request.partition_names or {pair.key for pair in request.query_params} & _OTHERWISE
        if more or not isinstance(collection, ExactCollection) or not {"dense", "sparse"} & {*fields}:
            return None
        keys = self._extract_pks_from_expr(request.expr, collection)
        return None if keys is None else collection.columns(keys, fields)

    @staticmethod
    def _extract_pks_from_expr(expr: str, col: Any) -> list[Any] | None:
        """The keys of `key in ["...", ...]`; written without escapes, as ours are, they need no parser.

        Lite's looks at each character, which for 1,500 keys takes 10 ms.
        """
        start, end, between = f'{col.pk_field} in ["', '"]', '", "'
        if expr and expr.startswith(start) and expr.endswith(end) and "\\" not in expr:
            keys = expr[len(start) : -len(end)]
            if '"' not in keys.replace(between, ""):
                return keys.split(between)
        found: list[Any] | None = MilvusServicer._extract_pks_from_expr(expr, col)
        return found

    def _rank(self, collection: Any, parsed: dict[str, Any]) -> list[Best] | None:
        more = {name for name, value in parsed.items() if value is not None and value != _UNSET.get(name)} - _RANKING
        if more or parsed["output_fields"] != [collection.pk_field] or not isinstance(collection, ExactCollection):
            return None
        return collection.rank(
            parsed["query_vectors"], parsed["anns_field"], parsed["metric_type"], parsed["expr"], parsed["top_k"]
        )


def _stored(collection: Any, rows: pa.Table) -> Any:
    """Columns as the protocol has them. A float is four bytes here and on the way: it stays what it is."""
    columns = [_field(name, rows[name]) for name in rows.schema.names]
    return milvus_pb2.QueryResults(
        status=common_pb2.Status(**success_status_kwargs()),
        fields_data=columns,
        collection_name=collection.name,
        output_fields=rows.schema.names,
        primary_field_name=collection.pk_field,
    )


def _field(name: str, column: pa.ChunkedArray) -> Any:
    field = schema_pb2.FieldData(field_name=name)
    if pa.types.is_fixed_size_list(column.type):
        field.type = schema_pb2.FloatVector
        field.vectors.dim = column.type.list_size
        field.vectors.float_vector.data.extend(pc.list_flatten(column).to_numpy().tolist())
    elif pa.types.is_binary(column.type):
        field.type = schema_pb2.SparseFloatVector
        contents = column.to_pylist()
        field.vectors.sparse_float_vector.contents.extend(contents)
        field.vectors.sparse_float_vector.dim = 1 + max((_last_dimension(one) for one in contents), default=-1)
    elif pa.types.is_integer(column.type):
        field.type = schema_pb2.Int64
        field.scalars.long_data.data.extend(column.to_pylist())
    else:
        field.type = schema_pb2.VarChar
        field.scalars.string_data.data.extend(column.to_pylist())
    return field


def _last_dimension(packed: bytes) -> int:
    """The largest dimension of a packed sparse vector: pairs of four bytes each, sorted by dimension."""
    return int.from_bytes(packed[-8:-4], "little") if packed else -1


def _results(collection: Any, ranked: list[Best], top_k: int) -> Any:
    ids = schema_pb2.IDs()
    scores: list[float] = []
    for keys, values in ranked:
        ids.str_id.data.extend(keys)
        scores += values
    return milvus_pb2.SearchResults(
        status=common_pb2.Status(**success_status_kwargs()),
        collection_name=collection.name,
        results=schema_pb2.SearchResultData(
            num_queries=len(ranked),
            top_k=top_k,
            scores=scores,
            ids=ids,
            topks=[len(keys) for keys, _ in ranked],
            primary_field_name=collection.pk_field,
        ),
    )
