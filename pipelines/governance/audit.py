"""The audit log as pure functions over rows: each entry's hash covers the entry and the hash before it.

Appending to the table is the lake's work. Whoever can rewrite the table can rewrite all hashes; the chain shows
accidents and careless edits, and any edit to someone who noted a later hash elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from pipelines.identity import row_hash

GENESIS = "0" * 64
"""What the first entry takes as the hash before it."""

Row = dict[str, object]
"""One row of `AUDIT_LOG`."""


def entry(
    previous_hash: str,
    sequence: int,
    at: datetime,
    actor: str,
    action: str,
    target: str,
    detail: Mapping[str, object],
    run_id: str,
) -> Row:
    """The row that follows the one with `previous_hash` (GENESIS for the first, whose `sequence` is 1).

    Raises:
        ValueError: `at` has no time zone, or `detail` is no JSON object.
    """
    if at.tzinfo is None:
        raise ValueError("`at` has no time zone; pass a time in UTC")
    try:
        text = json.dumps(dict(detail), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`detail` of the action {action!r} is no JSON object: {error}") from error
    row: Row = {
        "sequence": sequence,
        "at": at.astimezone(UTC),
        "actor": actor,
        "action": action,
        "target": target,
        "detail": text,
        "run_id": run_id,
        "previous_hash": previous_hash,
    }
    return {**row, "entry_hash": _hash(row)}


def check_chain(rows: Iterable[Mapping[str, object]], *, head: str | None = None) -> tuple[str, ...]:
    """What is wrong with the log, one sentence a finding; nothing for an intact or empty one.

    Args:
        rows: all rows of `AUDIT_LOG` in any order.
        head: the last entry's hash as noted elsewhere; without it, entries removed from the end are not noticed.
    """
    findings: list[str] = []
    ordered = sorted(rows, key=_sequence)
    previous_hash, expected = GENESIS, 1
    for row in ordered:
        sequence = _sequence(row)
        if sequence > expected:
            findings.append(f"entries {expected} to {sequence - 1} are missing")
        elif sequence < expected:
            findings.append(f"entry {sequence} is there more than once")
        elif row["previous_hash"] != previous_hash:
            findings.append(f"entry {sequence} does not follow the entry before it: one of the two was replaced")
        if row["entry_hash"] != _hash(row):
            findings.append(f"entry {sequence} was changed after it was written")
        previous_hash, expected = str(row["entry_hash"]), sequence + 1
    if head is not None and head != previous_hash:
        findings.append(
            f"the log ends with entry {expected - 1}, which is not the noted last one: later ones are missing"
        )
    return tuple(findings)


def _sequence(row: Mapping[str, object]) -> int:
    sequence = row["sequence"]
    assert isinstance(sequence, int)
    return sequence


def _hash(row: Mapping[str, object]) -> str:
    at = row["at"]
    assert isinstance(at, datetime)
    texts = [str(row[name]) for name in ("actor", "action", "target", "detail", "run_id", "previous_hash")]
    return row_hash(["audit", str(row["sequence"]), at.astimezone(UTC).isoformat(timespec="microseconds"), *texts])
