"""CSV and TSV: one table, its first row as header where it reads as one."""

from __future__ import annotations

import csv
import io
import re

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Parsed
from pipelines.parsing.failures import Damaged
from pipelines.parsing.limits import Limits
from pipelines.parsing.tables import table

_SAMPLE_LINES = 50
_NUMBER = re.compile(r"^[\s$€£+-]*[\d.,\s%]+$")


def parse(content: bytes, media_type: str, _config: Limits) -> Parsed:
    """The file's rows as one table element.

    Raises:
        Damaged: a quoted field is never closed or a field is beyond any reason.
    """
    text = decode(content).replace("\x00", "")
    delimiter = "\t" if media_type == "text/tab-separated-values" else _delimiter(text)
    csv.field_size_limit(10_000_000)
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(map(str.strip, row))
        ]
    except csv.Error as error:
        raise Damaged(f"it cannot be read as delimited text: {error}") from None
    found = table(rows, header_rows=int(looks_like_header(rows)))
    return Parsed((found,) if found else ())


def _delimiter(text: str) -> str:
    """The separator that gives the most even columns in the first lines; a comma where none stands out."""
    lines = [line for line in text[:65_536].splitlines() if line.strip()][:_SAMPLE_LINES]
    best, score = ",", 0.0
    for candidate in (",", ";", "\t", "|"):
        counts = [len(row) for row in csv.reader(lines, delimiter=candidate)]
        if not counts or max(counts) < 2:
            continue
        common = max(set(counts), key=lambda n: (counts.count(n), n))
        evenness = counts.count(common) / len(counts) if common > 1 else 0.0
        if evenness > score + 1e-9:
            best, score = candidate, evenness
    return best


def looks_like_header(rows: list[list[str]]) -> bool:
    """Whether the first of several rows names the columns: all cells but empty ones are words, none is a number."""
    if len(rows) < 2:
        return False
    first = [cell.strip() for cell in rows[0] if cell.strip()]
    return bool(first) and not any(_NUMBER.match(cell) for cell in first)
