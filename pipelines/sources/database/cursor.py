"""How far a database was polled: a time, and marks of what was told already within the overlap before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime


def mark_of(uri: str, etag: str, deleted: bool) -> str:
    """Stands for one state of one row."""
    return hashlib.blake2b(f"{uri}\0{etag}\0{deleted}".encode(), digest_size=8).hexdigest()


def read_cursor(cursor: str | None) -> tuple[datetime | None, frozenset[str]]:
    """The time and the marks of a cursor; of one that nobody can read any more nothing, so that all is looked at."""
    try:
        found = json.loads(cursor or "null")
        return datetime.fromisoformat(found["after"]), frozenset(found["seen"])
    except (ValueError, TypeError, KeyError):
        return None, frozenset()


def write_cursor(after: datetime, seen: Sequence[str]) -> str:
    """A cursor as text."""
    return json.dumps({"after": after.isoformat(), "seen": list(seen)})
