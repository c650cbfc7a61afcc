"""What one row of the index holds, and the hash that proves it. Nothing here talks to an index."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from pipelines import identity

_STRINGS = (
    "doc_id",
    "source",
    "tenant",
    "classification",
    "uri",
    "title",
    "heading_path",  # headings from the outermost in, joined by " > "
    "pages",  # "", "3" or "3-4"
    "text",  # exactly as encoded: heading context, newline, body
    "text_hash",
)
_INTEGERS = ("acl_id", "body_start")  # body_start: characters of `text` before the body

# The order is part of the hash; a field that joins or leaves changes every row_hash, and so every digest.
HASHED_FIELDS = ("chunk_id", *sorted(_STRINGS + _INTEGERS))

_PORTION_ROWS = 4_096  # rows whose texts are Python strings at a time

MAX_STRING_BYTES = 65_535  # Milvus's limit of a VARCHAR, in UTF-8 bytes

INDEX_ROW = pa.schema(
    [
        pa.field("chunk_id", pa.string(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in _STRINGS),
        *(pa.field(name, pa.int64(), nullable=False) for name in _INTEGERS),
        pa.field("row_hash", pa.string(), nullable=False),
        pa.field("dense", pa.list_(pa.float32()), nullable=False),  # unit length
        pa.field("terms", pa.list_(pa.int64()), nullable=False),  # ascending dimensions of the sparse vector
        pa.field("weights", pa.list_(pa.float32()), nullable=False),  # their BM25 document weights, above zero
    ]
)
STORED_SCALARS = tuple(name for name in INDEX_ROW.names if name not in ("dense", "terms", "weights"))
SCALAR_ROW = pa.schema([INDEX_ROW.field(name) for name in STORED_SCALARS])
HIT_FIELDS = ("doc_id", "uri", "source", "tenant", "acl_id", "text", "title", "heading_path", "pages", "body_start")


def row_hash(fields: Mapping[str, object], model_fp: str) -> str:
    """Hash of one row: every stored field but the vectors, and the model that made the dense one. 64 hex digits.

    Args:
        fields: at least `HASHED_FIELDS`; others (`row_hash` itself, vectors) are ignored.
        model_fp: stands for the vector, whose bits differ with batch and hardware.
    """
    return identity.row_hash([*(str(fields[name]) for name in HASHED_FIELDS), model_fp])


def row_hashes(rows: pa.Table, model_fp: str) -> list[str]:
    """`row_hash` of every row of a table that has at least `HASHED_FIELDS`, in its order."""
    hashes: list[str] = []
    for start in range(0, rows.num_rows, _PORTION_ROWS):
        portion = rows.slice(start, _PORTION_ROWS)
        columns = [portion[name].to_pylist() for name in HASHED_FIELDS]
        hashes += [identity.row_hash([*map(str, values), model_fp]) for values in zip(*columns, strict=True)]
    return hashes
