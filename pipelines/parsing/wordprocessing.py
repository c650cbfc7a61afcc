"""A plain reader of WordprocessingML, for what python-docx does not open: strict documents and single-file XML."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.parsing.docx_markup import flatten
from pipelines.parsing.elements import Element
from pipelines.parsing.tables import Cell, table
from pipelines.parsing.xml_safety import Node, attribute, local

_HEADING = re.compile(r"^(?:heading|überschrift|titre|título|titolo)\s*(\d)$", re.I)


def heading_styles(styles: Node | None) -> dict[str, int]:
    """Style ids to heading level, by outline level, name and what a style is based on; level 0 is the title's."""
    found: dict[str, int] = {}
    parents: dict[str, str] = {}
    if styles is None:
        return found
    for style in styles.iter("{*}style"):
        style_id = attribute(style, "styleId")
        name = attribute(_child(style, "name"), "val") if _child(style, "name") is not None else style_id
        if (based := _child(style, "basedOn")) is not None:
            parents[style_id] = attribute(based, "val")
        outline = next(style.iter("{*}outlineLvl"), None)
        match = _HEADING.match(name)
        if match:
            found[style_id] = int(match.group(1))
        elif outline is not None and attribute(outline, "val") in set("012345678"):
            found[style_id] = int(attribute(outline, "val")) + 1
        elif name.lower() == "title":
            found[style_id] = 0
    for style_id in parents:
        ancestor, steps = style_id, 0
        while ancestor in parents and ancestor not in found and steps < 20:
            ancestor, steps = parents[ancestor], steps + 1
        if ancestor in found and style_id not in found:
            found[style_id] = found[ancestor]
    return found


def read_body(body: Node, styles: dict[str, int]) -> Iterator[Element]:
    """The elements of a `w:body` or any other parent of paragraphs and tables."""
    flatten(body)
    yield from _blocks(body, styles)


def _blocks(parent: Node, styles: dict[str, int]) -> Iterator[Element]:
    for node in parent:
        match local(node):
            case "p":
                yield from _paragraph(node, styles)
            case "tbl":
                found = table([_cell(cell) for cell in row.iterchildren("{*}tc")] for row in node.iterchildren("{*}tr"))
                if found is not None:
                    yield found
            case "sect" | "sub-section" | "txbxContent" | "body":  # Word 2003 nests sections
                yield from _blocks(node, styles)


def _paragraph(node: Node, styles: dict[str, int]) -> Iterator[Element]:
    text = paragraph_text(node)
    if not text.strip():
        return
    properties = _child(node, "pPr")
    level, is_item = None, False
    if properties is not None:
        style = _child(properties, "pStyle")
        level = styles.get(attribute(style, "val")) if style is not None else None
        outline = _child(properties, "outlineLvl")
        if outline is not None and attribute(outline, "val") in set("012345678"):
            level = int(attribute(outline, "val")) + 1
        is_item = _child(properties, "numPr") is not None or _child(properties, "listPr") is not None
    if level == 0:
        yield Element("title", text)
    elif level is not None:
        yield Element("heading", text, level=level)
    else:
        yield Element("list_item" if is_item else "paragraph", text)


def paragraph_text(node: Node) -> str:
    """The text of a paragraph, tabs and line breaks included."""
    parts = []
    for item in node.iter("{*}t", "{*}tab", "{*}br", "{*}cr", "{*}noBreakHyphen"):
        name = local(item)
        if name == "t":
            parts.append(item.text or "")
        elif name == "tab":
            if local(item.getparent()) == "r":  # elsewhere it is the definition of a tab stop
                parts.append("\t")
        else:
            parts.append("-" if name == "noBreakHyphen" else "\n")
    return "".join(parts)


def _cell(node: Node) -> Cell:
    properties = _child(node, "tcPr")
    span = _child(properties, "gridSpan") if properties is not None else None
    columns = attribute(span, "val") if span is not None else "1"
    text = " ".join(paragraph_text(paragraph) for paragraph in node.iter("{*}p"))
    return Cell(text, int(columns) if columns.isdigit() and len(columns) < 4 else 1)


def _child(node: Node | None, name: str) -> Node | None:
    return None if node is None else next(node.iterchildren(f"{{*}}{name}"), None)
