"""Index rows for tests, from a few words each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.index.protocol import Visible
from pipelines.index.rows import INDEX_ROW, row_hash

MODEL = "model"
DIMENSION = 8


def unit_vector(seed: int) -> list[float]:
    """A random direction, the same for the same seed."""
    vector = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
    return [float(x) for x in vector / np.linalg.norm(vector)]


def index_row(number: int, **fields: Any) -> dict[str, Any]:
    """One complete row; `fields` replace the made-up ones. Its row_hash is right."""
    row: dict[str, Any] = {
        "chunk_id": f"chunk-{number:05d}",
        "doc_id": f"doc-{number // 2:05d}",
        "source": "files",
        "tenant": "default",
        "classification": "internal",
        "uri": f"folder/{number // 2}.md",
        "title": f"Title {number // 2}",
        "heading_path": "Part > Chapter",
        "pages": "3-4",
        "text": f"Part > Chapter\ntext {number}",
        "text_hash": f"{number:064x}",
        "acl_id": number % 5,
        "body_start": 15,
        "dense": unit_vector(number),
        "terms": sorted({10 + number % 3, 20 + number % 7, 1_000 + number}),
        "weights": [1.0, 0.5, 0.25],
        **fields,
    }
    row["row_hash"] = fields.get("row_hash") or row_hash(row, MODEL)
    return row


def readable_by(*acl_ids: int, tenant: str = "default", withheld: tuple[str, ...] = ()) -> Visible:
    """What somebody of those access sets may be shown."""
    return Visible(tenant, acl_ids, withheld)


def index_rows(numbers: Iterable[int], **fields: Any) -> pa.Table:
    """A table of rows, as `Index.upsert` takes it."""
    return pa.Table.from_pylist([index_row(number, **fields) for number in numbers], schema=INDEX_ROW)
