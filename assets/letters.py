"""How dead letters look in the UI: grouped by error class first, then one by one."""

from collections import defaultdict
from typing import Any

import pyarrow as pa

LETTER_COLUMNS = (
    "letter_id",
    "source",
    "uri",
    "stage",
    "error_class",
    "error",
    "transient",
    "attempts",
    "first_seen_at",
    "last_seen_at",
    "retry_at",
    "content_hash",
)
MOST_LETTERS = 200


def by_class(letters: pa.Table) -> list[dict[str, Any]]:
    """One row an error class, the most frequent first: count, oldest, an example, and when it is tried again."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for letter in letters.to_pylist():
        groups[letter["error_class"]].append(letter)
    return [_group(name, rows) for name, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))]


def _group(error_class: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    newest = max(rows, key=lambda row: row["last_seen_at"])
    waiting = [row["retry_at"] for row in rows if row["retry_at"] is not None]
    return {
        "class": error_class,
        "count": len(rows),
        "oldest": min(row["first_seen_at"] for row in rows),
        "transient": sum(row["transient"] for row in rows),
        "next retry": min(waiting) if waiting else "when asked",
        "example": f"{newest['source']}: {newest['uri']} ({newest['stage']}): {newest['error']}",
    }
