"""Tables on pages without table markup: consecutive rows whose pieces stand in the same columns.

A row is a line of text with wide gaps in it; the columns are where pieces of many rows overlap. Columns of running text
are told apart by their length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean

from pipelines.parsing.elements import Element
from pipelines.parsing.page_lines import Line, Piece
from pipelines.parsing.tables import table

_MIN_ROWS = 3
_SAME_SIZE = 0.15  # share by which sizes in one table may differ
_PROSE = 38  # characters; two columns whose pieces are longer on average are running text
_ROW_STEP = 3.2  # times the size: rows further apart belong to different tables
_MAX_WRAPPED = 4  # lines of a cell after its row
_WRAP_STEP = 1.6  # times the size: a line nearer than that to the row above may continue its cell


def split(page: Sequence[Line]) -> Iterator[list[Line] | Element]:
    """The page's lines in their order, with the lines of each table replaced by its element."""
    rows = _rows(page)
    plain: list[Line] = []
    index = 0
    while index < len(rows):
        end = _run(rows, index)
        found = _table(rows[index:end]) if end - index >= _MIN_ROWS else None
        if found is None:
            plain += rows[index]
            index += 1
            continue
        if plain:
            yield plain
            plain = []
        yield found
        index = end
    if plain:
        yield plain


def _rows(page: Sequence[Line]) -> list[list[Line]]:
    """Lines on the same height, which PDFium gives apart when the gap between them is wide."""
    rows: list[list[Line]] = []
    for line in page:
        last = rows[-1][-1] if rows else None
        if last and abs(last.bottom - line.bottom) < 0.3 * max(last.size, 1.0) and line.left > last.right:
            rows[-1].append(line)
        else:
            rows.append([line])
    return rows


def _pieces(row: Sequence[Line]) -> list[Piece]:
    return [piece for line in row for piece in line.pieces]


def _run(rows: Sequence[Sequence[Line]], start: int) -> int:
    """Where the rows that may be one table with the row at `start` end; `start` when that row cannot begin one."""
    if len(_pieces(rows[start])) < 2:
        return start
    end, last_wide = start + 1, start
    while end < len(rows):
        above, row = rows[end - 1][0], rows[end][0]
        step = above.bottom - row.bottom
        if not 0 < step < _ROW_STEP * max(row.size, 1.0) or abs(above.size - row.size) > _SAME_SIZE * above.size:
            break
        if len(_pieces(rows[end])) >= 2:
            last_wide = end
        elif step > _WRAP_STEP * max(row.size, 1.0) or end - last_wide > _MAX_WRAPPED:
            break
        end += 1
    return last_wide + 1


def _table(rows: Sequence[Sequence[Line]]) -> Element | None:
    """The table of these rows; None when their pieces do not form columns."""
    wide = [_pieces(row) for row in rows if len(_pieces(row)) >= 2]
    if len(wide) < _MIN_ROWS:
        return None
    columns = _columns(wide)
    if len(columns) < 2:
        return None
    cells: list[list[str]] = []
    bottoms: list[float] = []
    for row in rows:
        placed = _place(_pieces(row), columns)
        if placed is None:
            return None
        first, line = next(i for i, text in enumerate(placed) if text), row[0]
        near = bool(bottoms) and bottoms[-1] - line.bottom < _WRAP_STEP * line.size
        # a line without a first cell, close under a row, goes on with that row's cells
        if cells and near and first > 0:
            cells[-1] = [f"{a}\n{b}" if a and b else a or b for a, b in zip(cells[-1], placed, strict=True)]
        else:
            cells.append(placed)
        bottoms.append(line.bottom)
    filled = sum(sum(map(bool, row)) >= 2 for row in cells)
    if len(cells) < 2 or filled < 2 or filled * 10 < len(cells) * 7 or _is_prose(cells):
        return None
    header = all(line.bold for line in rows[0]) and not all(line.bold for row in rows[1:] for line in row)
    return table(cells, page=rows[0][0].page, header_rows=int(header))


def _columns(wide: Sequence[Sequence[Piece]]) -> list[tuple[float, float]]:
    """Where pieces stand: their spans, put together where they overlap."""
    spans = sorted((piece.left, piece.right) for row in wide for piece in row)
    columns: list[tuple[float, float]] = []
    for left, right in spans:
        if columns and left < columns[-1][1] - 0.5:
            columns[-1] = (columns[-1][0], max(columns[-1][1], right))
        else:
            columns.append((left, right))
    return columns


def _place(pieces: Sequence[Piece], columns: Sequence[tuple[float, float]]) -> list[str] | None:
    """The pieces' texts by column; None when one stands in no column or over several."""
    out = [""] * len(columns)
    for piece in pieces:
        hits = [i for i, (left, right) in enumerate(columns) if piece.left < right - 0.5 and piece.right > left + 0.5]
        if len(hits) != 1:
            return None
        out[hits[0]] = f"{out[hits[0]]} {piece.text}".strip()
    return out


def _is_prose(cells: Sequence[Sequence[str]]) -> bool:
    """Whether these are columns of running text side by side."""
    lengths = [mean([len(text) for row in cells if (text := row[i])] or [0]) for i in range(len(cells[0]))]
    return sum(length > _PROSE for length in lengths) >= 2 or (len(lengths) == 2 and max(lengths) > 80)
