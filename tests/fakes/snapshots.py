"""A snapshot as the table has it, of which a test says only what it is about."""

from __future__ import annotations

from typing import Any

from pipelines.lake.snapshots import Snapshot


def snapshot(snapshot_id: str, **fields: Any) -> Snapshot:
    """Live, first of its index, without rows, unless it is said otherwise."""
    usual: dict[str, Any] = {
        "sequence": 1,
        "index_name": "i",
        "parent": None,
        "kind": "full",
        "manifest_version": 0,
        "recipe_fp": "r",
        "model_fp": "m",
        "model": {},
        "collection": "i__a",
        "documents": 0,
        "rows": 0,
        "digest": "",
        "upserted": 0,
        "deleted": 0,
        "status": "live",
        "run_id": "run",
    }
    return Snapshot(snapshot_id=snapshot_id, **{**usual, **fields})
