"""Rows of cells to a table element: HTML with spans and header cells, and text with one line a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from pipelines.parsing.elements import Element
from pipelines.parsing.normalise import one_line

_MAX_SPAN = 1_000  # wider or taller spans are a mistake or an attack
SEPARATOR = " | "


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell; `columns` and `rows` are how many it spans."""

    text: str
    columns: int = 1
    rows: int = 1
    header: bool = False


def table(rows: Iterable[Sequence[Cell | str]], *, page: int | None = None, header_rows: int = 0) -> Element | None:
    """The table element of these rows, None when no cell has text.

    In the text, a cell that spans rows is repeated in each of them, so that every line can be understood alone.

    Args:
        rows: of cells, or of plain texts.
        page: 1-based page the table is on.
        header_rows: so many first rows are made header cells.
    """
    html, lines = ["<table>"], []
    pending: dict[int, tuple[str, int]] = {}  # column to (text, rows still to come) of cells that span rows
    for number, row in enumerate(rows):
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        if number < header_rows:
            cells = [Cell(cell.text, cell.columns, cell.rows, header=True) for cell in cells]
        texts, pending = _line(cells, pending)
        if not any(texts):
            continue
        html.append(f"<tr>{''.join(map(_html, cells))}</tr>")
        lines.append(SEPARATOR.join(texts).rstrip(" |") or "")
    html.append("</table>")
    if not lines:
        return None
    return Element("table", "\n".join(lines), page=page, html="".join(html))


def _html(cell: Cell) -> str:
    tag = "th" if cell.header else "td"
    spans = f' colspan="{cell.columns}"' if cell.columns > 1 else ""
    spans += f' rowspan="{cell.rows}"' if cell.rows > 1 else ""
    return f"<{tag}{spans}>{escape(one_line(cell.text), quote=False)}</{tag}>"


def _line(cells: Sequence[Cell], pending: dict[int, tuple[str, int]]) -> tuple[list[str], dict[int, tuple[str, int]]]:
    texts: list[str] = []
    following: dict[int, tuple[str, int]] = {}
    column = 0

    def fill() -> None:
        nonlocal column
        while column in pending:
            text, left = pending[column]
            texts.append(text)
            if left > 1:
                following[column] = (text, left - 1)
            column += 1

    for cell in cells:
        fill()
        text = one_line(cell.text)
        width = max(1, min(cell.columns, _MAX_SPAN))
        if cell.rows > 1:
            following[column] = (text, min(cell.rows, _MAX_SPAN) - 1)
        texts.append(text)
        column += width
    fill()
    return texts, following
