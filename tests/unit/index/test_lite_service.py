from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("milvus_lite")

from milvus_lite.adapter.grpc.servicer import MilvusServicer

from pipelines.index.filters import any_string
from pipelines.index.lite_service import ExactServicer

COLLECTION = SimpleNamespace(pk_field="chunk_id", _pk_name="chunk_id")


@pytest.mark.parametrize(
    "expression",
    [
        any_string("chunk_id", ["a"]),
        any_string("chunk_id", ["a", "b", "c d"]),
        any_string("chunk_id", ['a", "b', "c\\", "d\n"]),
        any_string("chunk_id", []),
        any_string("doc_id", ["a", "b"]),
        'chunk_id in ["a"] || doc_id in ["b"]',
        'chunk_id in ["a"] && acl_id in [1]',
        "chunk_id in ['a', 'b']",
        'chunk_id not in ["a"]',
        "acl_id in [1]",
        "",
    ],
)
def test_keys_are_read_from_an_expression_as_lite_reads_them(expression: str) -> None:
    lites: Any = MilvusServicer._extract_pks_from_expr(expression, COLLECTION)
    assert ExactServicer._extract_pks_from_expr(expression, COLLECTION) == lites
