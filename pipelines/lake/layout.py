"""How the manifest lies on the disk: in files by the first digits of ids, so that a merge rewrites little.

A merge copies every file in which it changes a row. With all documents in one file, ten changed ones of 300,000 cost
54 MB; laid out like this at most ten times `_FILE_ROWS`, at any size. The other large tables are appended to, and lie
in ranges of their keys; see `portions`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

COLUMN = "part"
"""The partition column that the table has on the disk, and no reader of ours sees."""

LAID_OUT: dict[str, str] = {"documents": "doc_id"}
"""The tables that are laid out so, and by which column."""

_WHOLE = "all"  # of a table that is too small to be divided
_FILE_ROWS = 2_048
_NAMED = 256  # parts that a predicate names; of more, all are meant


def digits_for(rows: int) -> int:
    """How many hex digits divide so many rows into files that are small enough."""
    digits = 0
    while rows > _FILE_ROWS * 16**digits:
        digits += 1
    return digits


def digits_of(parts: Sequence[str | None]) -> int | None:
    """By how many digits a table is divided whose files are in these parts; None while it has no files."""
    named = [part for part in parts if part is not None]
    return None if not named else 0 if named[0] == _WHOLE else len(named[0])


def with_part(rows: pa.Table, column: str, digits: int) -> pa.Table:
    """The rows with the part that each belongs to, in the order of their keys."""
    rows = rows.sort_by(column)
    part = pc.utf8_slice_codeunits(rows[column], 0, digits) if digits else pa.repeat(_WHOLE, len(rows))
    return rows.append_column(pa.field(COLUMN, pa.string()), part)


def within(rows: pa.Table, *, alias: str) -> str:
    """A condition that names the parts of these rows, for a merge to leave all other files alone."""
    parts = sorted(set(rows[COLUMN].to_pylist()))
    if len(parts) > _NAMED:
        return "true"
    named = ", ".join(f"'{part}'" for part in parts)
    return f"{alias}.{COLUMN} IN ({named})"
