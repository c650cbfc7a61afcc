"""Reading files of records row by row: JSON lines, CSV and Parquet. What a row means is decided in `records`.

A row that cannot be told apart from its neighbours is a `BadRow` with its place; a file that cannot be read at all
raises. One row, or one Parquet batch, is in memory at a time.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PARQUET_ROWS = 512
_BUFFER_BYTES = 1 << 20
_LINE_EXTRA_BYTES = 1 << 16  # a line is longer than its record: escapes, and fields that are not used


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `place` is "line 7" (1-based, of its first line) or "row 7"."""

    place: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row without readable fields, so that nobody knows which document it is."""

    place: str
    reason: str


class UnreadableFile(Exception):
    """The file as a whole is not what its suffix says, or lacks a column."""


RowReader = Callable[[Path, Sequence[str], int], Iterator[Row | BadRow]]


def json_lines(path: Path, _columns: Sequence[str], max_bytes: int) -> Iterator[Row | BadRow]:
    """One JSON object a line; empty lines are passed over, a byte order mark is allowed."""
    limit = 2 * max_bytes + _LINE_EXTRA_BYTES
    with path.open("rb", buffering=_BUFFER_BYTES) as file:
        number = 0
        while line := file.readline(limit):
            number += 1
            place = f"line {number}"
            if len(line) == limit and not line.endswith(b"\n"):
                _skip_line(file)
                yield BadRow(place, f"the line is too long for a record of `max_bytes`, {max_bytes:,}")
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                yield BadRow(place, f"not UTF-8 at byte {error.start + 1}")
            except (ValueError, RecursionError) as error:
                yield BadRow(place, f"no valid JSON: {error}")
            else:
                if isinstance(values, dict):
                    yield Row(place, values)
                else:
                    yield BadRow(place, f"a JSON object is needed, this is a {type(values).__name__}")


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_BUFFER_BYTES)) and not rest.endswith(b"\n"):
        pass


def comma_separated(path: Path, columns: Sequence[str], max_bytes: int) -> Iterator[Row | BadRow]:
    """RFC 4180 with a header line, comma-separated (tabs where the suffix is .tsv), UTF-8 with or without a mark."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    # The csv module knows only one limit for the whole process; it may grow here but never shrinks.
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="", buffering=_BUFFER_BYTES) as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            header = next(reader, None)
        except csv.Error as error:
            raise UnreadableFile(f"the header line is no valid CSV: {error}") from error
        if header is None:
            raise UnreadableFile("it is empty; a header line with the names of the columns is needed")
        _need(columns, header, hint="; columns are separated by commas (by tabs where the file is named .tsv)")
        while True:
            place = f"line {reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield BadRow(place, f"no valid CSV: {error}")
                continue
            if cells is None:
                return
            if not cells:
                continue  # an empty line
            if len(cells) != len(header):
                yield BadRow(place, f"{len(cells)} fields, and the header names {len(header)}")
            elif any(not cell.isascii() and _undecodable(cell) for cell in cells):
                yield BadRow(place, "not UTF-8")
            else:
                yield Row(place, dict(zip(header, cells, strict=True)))


def _undecodable(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def parquet(path: Path, columns: Sequence[str], _max_bytes: int) -> Iterator[Row | BadRow]:
    """The rows of a Parquet file, of the needed columns only."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
            _need(columns, file.schema_arrow.names)
            number = 0
            wanted = list(dict.fromkeys(columns))
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"row {number}", values)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UnreadableFile(f"it is no readable Parquet file: {error}") from error


def _need(columns: Sequence[str], present: Sequence[str], *, hint: str = "") -> None:
    missing = [name for name in columns if name not in present]
    if missing:
        raise UnreadableFile(
            f"`fields` names the column {', '.join(map(repr, missing))}, and the file has "
            f"{', '.join(map(repr, present))}; correct `fields`{hint}"
        )
    doubled = sorted({name for name in columns if list(present).count(name) > 1})
    if doubled:
        raise UnreadableFile(f"the column {', '.join(map(repr, doubled))} is there more than once; rename one")


READERS: dict[str, RowReader] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".csv": comma_separated,
    ".tsv": comma_separated,
    ".parquet": parquet,
}
