"""Rows of tables for tests that need many."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipelines.identity import content_hash, doc_id
from pipelines.lake.schemas import DOCUMENTS


def documents_named(uris: Iterable[str], **values: Any) -> pa.Table:
    """Rows of the manifest, one a uri, active unless `values` say something else."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    empty = dict.fromkeys(DOCUMENTS.names)
    rows = [
        empty
        | {
            "doc_id": doc_id("docs", uri),
            "source": "docs",
            "uri": uri,
            "tenant": "default",
            "acl_id": 1,
            "classification": "internal",
            "media_type": "text/plain",
            "size_bytes": len(uri),
            "content_hash": content_hash(uri.encode()),
            "version": 1,
            "title": uri,
            "metadata": "{}",
            "status": "active",
            "run_id": "test",
            "updated_at": now,
        }
        | values
        for uri in uris
    ]
    return pa.Table.from_pylist(rows, schema=DOCUMENTS)
