"""What could not be processed, per document and stage, until it is resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.identity import fingerprint
from pipelines.lake.schemas import DEAD_LETTERS
from pipelines.lake.tables import Lake

TABLE = "dead_letters"
Stage = Literal["list", "fetch", "parse", "chunk", "encode"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One document failed at one stage."""

    source: str
    uri: str
    stage: Stage
    error_class: str
    error: str
    transient: bool = False
    content_hash: str | None = None

    @property
    def letter_id(self) -> str:
        """One letter a document and stage: a second attempt counts up instead of adding another."""
        return fingerprint("letter", {"source": self.source, "uri": self.uri, "stage": self.stage})


def open_letters(lake: Lake) -> pa.Table:
    """The letters that nobody has resolved."""
    return lake.read(TABLE, where=pc.field("status") == "open")


def record(lake: Lake, failures: Sequence[Failure], *, healthy: Iterable[tuple[str, str]], run_id: str) -> int:
    """Open or update a letter a failure, and resolve those of documents that are healthy again, in one commit.

    Args:
        lake: the tables.
        failures: what failed in this run.
        healthy: (source, uri) of documents that passed every stage, or are gone from their source.
        run_id: recorded with each letter.

    Returns:
        How many letters are open afterwards.
    """
    now = datetime.now(UTC)
    before = {row["letter_id"]: row for row in lake.read(TABLE).to_pylist()}
    rows: dict[str, dict[str, object]] = {}
    for failure in failures:
        known = before.get(failure.letter_id)
        if failure.stage == "list" and known and known["status"] == "open" and known["error"] == failure.error:
            continue  # a listing meets the same obstacle each time: that is no new attempt, and no reason to commit
        rows[failure.letter_id] = {
            **asdict(failure),
            "letter_id": failure.letter_id,
            "attempts": 1 + (known["attempts"] if known and known["status"] == "open" else 0),
            "status": "open",
            "run_id": run_id,
            "first_seen_at": known["first_seen_at"] if known and known["status"] == "open" else now,
            "last_seen_at": now,
        }
    resolved = set(healthy)
    for letter_id, row in before.items():
        if row["status"] == "open" and letter_id not in rows and (row["source"], row["uri"]) in resolved:
            rows[letter_id] = {**row, "status": "resolved", "run_id": run_id, "last_seen_at": now}
    if rows:
        lake.merge(
            TABLE, pa.Table.from_pylist(list(rows.values()), schema=DEAD_LETTERS), key="letter_id", run_id=run_id
        )
    still_open = {i for i, row in before.items() if row["status"] == "open"} | set(rows)
    return len(still_open - {i for i, row in rows.items() if row["status"] == "resolved"})
