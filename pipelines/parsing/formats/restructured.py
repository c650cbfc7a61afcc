"""reStructuredText through docutils, with file inclusion and raw output switched off."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import docutils.core
import docutils.nodes as nodes
import docutils.utils

from pipelines.parsing.dates import iso
from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Kind, Parsed, Value
from pipelines.parsing.failures import Damaged
from pipelines.parsing.limits import Limits
from pipelines.parsing.tables import Cell, table

_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,
    "halt_level": 5,
    "syntax_highlight": "none",
    "doctitle_xform": True,
    "_disable_config": True,
    "tab_width": 8,
    "line_length_limit": 1_000_000,
}
_SKIPPED = (
    nodes.comment,
    nodes.substitution_definition,
    nodes.target,
    nodes.system_message,
    nodes.meta,
    nodes.pending,
    nodes.raw,
)


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The document's elements; what docutils reports as mistakes is left out."""
    settings = _SETTINGS | {"warning_stream": io.StringIO()}
    try:
        document = docutils.core.publish_doctree(decode(content), settings_overrides=settings)
    except docutils.utils.SystemMessage as error:
        raise Damaged(f"docutils cannot read it: {error}") from None
    metadata: dict[str, Value] = {}
    for info in document.findall(nodes.docinfo):
        for field in info:
            name = type(field).__name__
            if name in ("author", "authors"):
                metadata["author"] = field.astext().replace("\n\n", "; ")
            elif name == "date" and (found := iso(field.astext())):
                metadata["created"] = found
    return Parsed(tuple(_children(document, 0, "paragraph")), str(document.get("title", "")), metadata)


def _children(parent: Any, level: int, kind: Kind) -> Iterator[Element]:
    for node in parent.children:
        yield from _node(node, level, kind)


def _node(node: Any, level: int, kind: Kind) -> Iterator[Element]:
    if isinstance(node, _SKIPPED):
        return
    match node:
        case nodes.title():
            is_title = isinstance(node.parent, nodes.document)
            yield (
                Element("title", node.astext()) if is_title else Element("heading", node.astext(), level=max(level, 1))
            )
        case nodes.subtitle():
            yield Element("heading", node.astext(), level=1)
        case nodes.section():
            yield from _children(node, level + 1, kind)
        case nodes.literal_block() | nodes.doctest_block():
            language = next((c for c in node["classes"] if c != "code"), None)
            yield Element(
                "code",
                node.astext(),
                language=language or ("python" if isinstance(node, nodes.doctest_block) else None),
            )
        case nodes.table():
            yield from _table(node)
        case nodes.bullet_list() | nodes.enumerated_list():
            yield from _list(node, level)
        case nodes.definition_list_item() | nodes.field() | nodes.option_list_item():
            yield Element("list_item", ": ".join(" ".join(child.astext().split()) for child in node.children))
        case nodes.block_quote():
            yield from _children(node, level, "quote")
        case nodes.caption():
            yield Element("caption", node.astext())
        case nodes.footnote() | nodes.citation():
            yield Element("footer", " ".join(node.astext().split()))
        case nodes.paragraph() | nodes.line() | nodes.rubric() | nodes.attribution():
            yield Element(kind, " ".join(node.astext().split()))
        case nodes.docinfo():
            yield from (Element("paragraph", f"{type(field).__name__}: {field.astext()}") for field in node.children)
        case nodes.Text():
            return
        case nodes.image():
            if alt := node.get("alt"):
                yield Element("caption", alt)
        case _:
            yield from _children(node, level, kind)


def _list(node: Any, level: int) -> Iterator[Element]:
    number = int(node.get("start", 1)) if isinstance(node, nodes.enumerated_list) else None
    for item in node.children:
        first = True
        for element in _children(item, level, "list_item"):
            if first and number is not None and element.kind == "list_item":
                element = Element("list_item", f"{number}. {element.text}")
            first = False
            yield element
        number = None if number is None else number + 1


def _table(node: Any) -> Iterator[Element]:
    for title in node.findall(nodes.title):
        yield Element("caption", title.astext())
    rows = [
        [
            Cell(
                " ".join(entry.astext().split()),
                int(entry.get("morecols", 0)) + 1,
                int(entry.get("morerows", 0)) + 1,
                header=isinstance(row.parent, nodes.thead),
            )
            for entry in row.children
        ]
        for row in node.findall(nodes.row)
    ]
    if (found := table(rows)) is not None:
        yield found
