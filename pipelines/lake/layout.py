"""How tables whose rows are replaced lie on the disk: in parts, so that a commit rewrites little.

A merge copies every file in which it changes a row. With all documents in one file, ten changed ones of 300,000 cost
54 MB; in parts by the first digits of their ids at most ten times `_FILE_ROWS`, at any size. The record of snapshots is
replaced three times an update, and gets one row more each time: in parts by their numbers, what came first is left
alone. The other large tables are appended to, and lie in ranges of their keys; see `portions`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

COLUMN = "part"
"""The partition column that the table has on the disk, and no reader of ours sees."""

BY_DIGITS: dict[str, str] = {"documents": "doc_id"}
"""The tables in parts by the first digits of a key, and by which column."""

BY_NUMBER: dict[str, str] = {"index_snapshots": "sequence"}
"""The tables in parts by a number that ascends, and by which column."""

IN_PARTS = BY_DIGITS.keys() | BY_NUMBER.keys()

_WHOLE = "all"  # of a table that is too small to be divided
_FILE_ROWS = 2_048
_NUMBERS = 32  # that a part has
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


def with_part_of_number(rows: pa.Table, column: str) -> pa.Table:
    """The rows with the part that each belongs to by its number, in the order of these."""
    rows = rows.sort_by(column)
    first = pc.multiply(pc.divide(rows[column], _NUMBERS), _NUMBERS)
    last = pc.add(first, _NUMBERS - 1)
    part = pc.binary_join_element_wise(pc.cast(first, pa.string()), pc.cast(last, pa.string()), "-")
    return rows.append_column(pa.field(COLUMN, pa.string()), part)


def by_number(parts: Sequence[str | None]) -> bool:
    """Whether these are parts by number as they are made today, and not of another size."""
    found = [part.partition("-") for part in parts if part]
    return len(found) == len(parts) and all(
        first.isdigit() and last.isdigit() and int(last) - int(first) == _NUMBERS - 1 for first, _, last in found
    )


def numbers_of(rows: pa.Table) -> list[tuple[int, int]]:
    """The first and the last number of each part that these rows are in."""
    parts = (part.partition("-") for part in set(rows[COLUMN].to_pylist()))
    return sorted((int(first), int(last)) for first, _, last in parts)


def within(rows: pa.Table, *, column: str = COLUMN) -> str:
    """A condition that names the parts of these rows, for a write to leave all other files alone."""
    parts = sorted(set(rows[COLUMN].to_pylist()))
    if len(parts) > _NAMED:
        return "true"
    named = ", ".join(f"'{part}'" for part in parts)
    return f"{column} IN ({named})"
