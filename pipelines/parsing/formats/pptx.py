"""Presentations through python-pptx: the slide number as page, slide titles as headings, tables, speaker notes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any
from zipfile import BadZipFile

from lxml import etree
from pptx import Presentation
from pptx.exc import PackageNotFoundError
from pptx.util import Emu

from pipelines.parsing.archives import Container, refuse_entities, repacked
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.failures import Damaged
from pipelines.parsing.limits import Limits
from pipelines.parsing.office import as_plain_document, core_properties
from pipelines.parsing.tables import Cell, table
from pipelines.parsing.xml_safety import attribute, local

_ROW = Emu(360_000)  # shapes whose tops differ by less than a centimetre stand side by side
_MAX_DEPTH = 20
_FURNITURE = ("DATE", "FOOTER", "SLIDE_NUMBER", "HEADER")


def parse(content: bytes, _media_type: str, config: Limits) -> Parsed:
    """The slides' elements, top to bottom and left to right.

    Raises:
        ArchiveBomb, Damaged, Encrypted: see `Container`.
    """
    container = Container(content, config)
    refuse_entities(container)
    try:
        slides = list(Presentation(io.BytesIO(repacked(container, as_plain_document(container)))).slides)
    except (PackageNotFoundError, KeyError, BadZipFile, etree.LxmlError, ValueError, AttributeError) as error:
        raise Damaged(f"it is no complete presentation: {type(error).__name__}: {error}") from None
    out: list[Element] = []
    for number, slide in enumerate(slides, 1):
        out.extend(_slide(slide, number))
    title, metadata = core_properties(container)
    return Parsed(tuple(out), title, metadata, len(slides))


def _slide(slide: Any, number: int) -> Iterator[Element]:
    title = slide.shapes.title
    if title is not None and title.has_text_frame and title.text_frame.text.strip():
        yield Element("heading", title.text_frame.text, level=1, page=number)
    for shape in _ordered(slide.shapes):
        if title is None or shape.shape_id != title.shape_id:
            yield from _shape(shape, number, 0)
    if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None:
        yield Element("footer", frame.text, page=number)


def _ordered(shapes: Iterable[Any]) -> list[Any]:
    """Reading order; shapes without a place of their own take their layout's."""
    items = list(shapes)

    def place(shape: Any) -> tuple[int, int]:
        return int(shape.top or 0) // _ROW, int(shape.left or 0)

    return sorted(items, key=place)


def _shape(shape: Any, page: int, depth: int) -> Iterator[Element]:
    if (
        shape.is_placeholder
        and shape.placeholder_format.type is not None
        and shape.placeholder_format.type.name in _FURNITURE
    ):
        return
    if hasattr(shape, "shapes"):
        if depth < _MAX_DEPTH:
            for inner in _ordered(shape.shapes):
                yield from _shape(inner, page, depth + 1)
    elif getattr(shape, "has_table", False):
        found = table(
            ([_cell(cell) for cell in row.cells if not cell.is_spanned] for row in shape.table.rows),
            page=page,
            header_rows=int(bool(shape.table.first_row)),
        )
        if found is not None:
            yield found
    elif getattr(shape, "has_chart", False):
        yield from _chart(shape, page)
    elif shape.has_text_frame:
        yield from _text(shape, page)
    else:
        yield from _diagram(shape, page)


def _text(shape: Any, page: int) -> Iterator[Element]:
    paragraphs = [p for p in shape.text_frame.paragraphs if "".join(r.text for r in p.runs).strip() or p.text.strip()]
    is_list = len(paragraphs) > 1 and shape.is_placeholder
    for paragraph in paragraphs:
        properties = paragraph._p.pPr
        bullet = properties is not None and any(local(node) in ("buChar", "buAutoNum", "buBlip") for node in properties)
        plain = properties is not None and any(local(node) == "buNone" for node in properties)
        kind: Any = "list_item" if bullet or (is_list and not plain) or paragraph.level else "paragraph"
        yield Element(kind, paragraph.text.replace("\v", "\n"), page=page)


def _chart(shape: Any, page: int) -> Iterator[Element]:
    """A chart's title, and its numbers as a table."""
    try:
        chart = shape.chart
        if chart.has_title and chart.chart_title.has_text_frame:
            yield Element("caption", chart.chart_title.text_frame.text, page=page)
        plot = chart.plots[0]
        categories = [str(category) for category in plot.categories]
        series = [(item.name or "", list(item.values)) for item in plot.series]
    except (KeyError, ValueError, AttributeError, IndexError, NotImplementedError):
        return  # a kind of chart without such numbers
    rows = [["", *categories], *([name, *("" if v is None else f"{v:g}" for v in values)] for name, values in series)]
    found = table(rows, page=page, header_rows=1)
    if found is not None:
        yield found


def _diagram(shape: Any, page: int) -> Iterator[Element]:
    """The texts of a SmartArt diagram, which are in a part of their own."""
    for node in shape._element.iter("{*}relIds"):
        try:
            part = shape.part.related_part(attribute(node, "dm"))
            root = etree.fromstring(part.blob, etree.XMLParser(resolve_entities=False, no_network=True))
        except (KeyError, etree.LxmlError, AttributeError):
            continue
        for point in root.iter("{*}pt"):
            text = "".join(t.text or "" for t in point.iter("{*}t"))
            if text.strip() and attribute(point, "type") in ("", "node", "asst"):
                yield Element("list_item", text, page=page)


def _cell(cell: Any) -> Cell:
    return Cell(cell.text, cell.span_width, cell.span_height)
