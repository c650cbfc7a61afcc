"""Workbooks (XLSX, XLSB, XLS, ODS) through calamine: each sheet a heading and the tables on it."""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum, SheetVisibleEnum

from pipelines.parsing.archives import Container, refuse_entities
from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.failures import Damaged, Encrypted
from pipelines.parsing.formats.delimited import looks_like_header
from pipelines.parsing.limits import Limits
from pipelines.parsing.office import core_properties, describe
from pipelines.parsing.tables import table
from pipelines.parsing.xml_safety import parse_xml

_PARAGRAPH = "{http://schemas.openxmlformats.org/drawingml/2006/main}p"
_DRAWING = re.compile(r"xl/(?:drawings/drawing|diagrams/data)\d+\.xml$")


def parse(content: bytes, _media_type: str, config: Limits) -> Parsed:
    """The workbook's visible sheets.

    Raises:
        ArchiveBomb, Damaged, Encrypted: see `Container`.
    """
    title, metadata = "", dict[str, Value]()
    shapes: list[Element] = []
    if content[:2] == b"PK":
        container = Container(content, config)
        refuse_entities(container)
        if b"manifest:encryption-data" in (
            container.read("META-INF/manifest.xml") if "META-INF/manifest.xml" in container else b""
        ):
            raise Encrypted("the spreadsheet is encrypted; its password is needed")
        title, metadata = core_properties(container)
        if "meta.xml" in container:
            title, metadata = describe(parse_xml(container.read("meta.xml"), recover=True))
        shapes = _shapes(container)
    return Parsed((*read_workbook(content), *shapes), title, metadata)


def _shapes(container: Container) -> list[Element]:
    """What stands in text boxes and diagrams over the cells."""
    out: list[Element] = []
    for name in sorted(name for name in container.names() if _DRAWING.match(name)):
        paragraphs = parse_xml(container.read(name), recover=True).iter(_PARAGRAPH)
        out += [Element("paragraph", "".join(t.text or "" for t in p.iter("{*}t"))) for p in paragraphs]
    return out


def read_workbook(content: bytes) -> list[Element]:
    """The elements of a workbook in any format that calamine reads.

    Raises:
        Damaged, Encrypted: calamine cannot open it.
    """
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(content))
    except PasswordError:
        raise Encrypted("the workbook is encrypted; its password is needed") from None
    except (CalamineError, OSError, ValueError) as error:
        raise Damaged(f"it is no complete workbook: {error}") from None
    visible = [
        s for s in book.sheets_metadata if s.visible == SheetVisibleEnum.Visible and s.typ == SheetTypeEnum.WorkSheet
    ]
    out: list[Element] = []
    for sheet in visible:
        try:
            rows = book.get_sheet_by_name(sheet.name).to_python()
        except (CalamineError, ValueError) as error:
            raise Damaged(f"its sheet {sheet.name!r} cannot be read: {error}") from None
        tables = list(_tables([[_text(value) for value in row] for row in rows]))
        if tables:
            out.append(Element("heading", sheet.name, level=1))
            out.extend(tables)
    return out


def _tables(rows: list[list[str]]) -> Iterator[Element]:
    """The blocks of a sheet that empty rows separate: a single cell is a line of text, the rest are tables."""
    empty = [-1, *(index for index, row in enumerate(rows) if not any(row)), len(rows)]
    for start, end in pairwise(empty):
        block = rows[start + 1 : end]
        while block and sum(map(bool, block[0])) == 1 and len(block[0]) > 1 and _is_wide(block[1:]):
            yield Element("paragraph", next(filter(None, block[0])))
            block = block[1:]
        if not block:
            continue
        if len(block) == 1 and sum(map(bool, block[0])) == 1:
            yield Element("paragraph", next(filter(None, block[0])))
            continue
        found = table(_trimmed(block), header_rows=int(looks_like_header(block)))
        if found is not None:
            yield found


def _is_wide(rows: list[list[str]]) -> bool:
    return any(sum(map(bool, row)) > 1 for row in rows[:2])


def _trimmed(block: list[list[str]]) -> list[list[str]]:
    """Without columns that are empty in the whole block."""
    used = [any(row[column] for row in block) for column in range(len(block[0]))]
    return [[cell for cell, keep in zip(row, used, strict=True) if keep] for row in block]


def _text(value: Any) -> str:
    """A cell as a person reads it."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.12g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ", "seconds")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value).strip()
