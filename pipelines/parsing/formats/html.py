"""HTML and XHTML: headings, paragraphs, lists, tables, code, quotes, metadata. Mails and books use it."""

from __future__ import annotations

import re
from typing import Any

import lxml.html
from lxml import etree

from pipelines.parsing.blocks import BlockWriter
from pipelines.parsing.dates import iso
from pipelines.parsing.decoding import declared_charset, decode
from pipelines.parsing.elements import Element, Kind, Parsed, Value
from pipelines.parsing.failures import Damaged
from pipelines.parsing.limits import Limits
from pipelines.parsing.normalise import one_line
from pipelines.parsing.tables import Cell, table

Node = Any

_SKIPPED = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "head",
        "nav",
        "iframe",
        "object",
        "embed",
        "svg",
        "math",
        "canvas",
        "audio",
        "video",
        "select",
        "option",
        "datalist",
        "input",
        "textarea",
        "button",
        "map",
        "area",
        "link",
        "meta",
        "base",
        "track",
        "source",
        "param",
        "dialog",
    ]
)
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "acronym",
        "b",
        "bdi",
        "bdo",
        "big",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "ins",
        "kbd",
        "label",
        "mark",
        "q",
        "rp",
        "rt",
        "ruby",
        "s",
        "samp",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "time",
        "tt",
        "u",
        "var",
        "wbr",
        "img",
        "nobr",
    ]
)
_HEADINGS = {f"h{n}": n for n in range(1, 7)}
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_LANGUAGE = re.compile(r"(?:^|\s)(?:language-|lang-|highlight-(?:source-)?|brush:\s*)([\w+#.-]+)")
_MAX_DEPTH = 400


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The document's elements; scripts, styles, navigation and hidden parts are left out."""
    return parse_text(decode(content, declared=declared_charset(content[:4096])))


def parse_text(text: str) -> Parsed:
    """As `parse`, of text that is decoded already."""
    root = tree(text)
    if root is None:
        return Parsed(())
    title, metadata = _head(root)
    writer = BlockWriter()
    Walker(writer).walk(root)
    writer.flush()
    return Parsed(tuple(writer.elements), title, metadata)


def fragment(text: str) -> tuple[Element, ...]:
    """The elements of a piece of HTML inside another format."""
    return parse_text(text).elements


def tree(text: str) -> Node | None:
    """The root element of repaired HTML; None when there is nothing in it.

    Raises:
        Damaged: it cannot be repaired.
    """
    text = _DECLARATION.sub("", text.replace("\x00", ""), count=1)
    if not text.strip():
        return None
    try:
        return lxml.html.document_fromstring(text, parser=lxml.html.HTMLParser(remove_comments=True, remove_pis=True))
    except etree.ParserError as error:
        if "empty" in str(error).lower():
            return None
        raise Damaged(f"it cannot be read as HTML: {error}") from None


def _head(root: Node) -> tuple[str, dict[str, Value]]:
    title = one_line(root.findtext(".//title") or "")
    metadata: dict[str, Value] = {}
    if language := root.get("lang") or root.get("{http://www.w3.org/XML/1998/namespace}lang"):
        metadata["language"] = language
    for meta in root.iter("meta"):
        name = (meta.get("name") or meta.get("property") or "").lower()
        value = (meta.get("content") or "").strip()
        if not value:
            continue
        if name in ("author", "dc.creator", "dcterms.creator", "article:author"):
            metadata.setdefault("author", value)
        elif name in ("date", "dc.date", "dcterms.created", "article:published_time", "dcterms.date", "created"):
            if found := iso(value):
                metadata.setdefault("created", found)
        elif name in ("dcterms.modified", "article:modified_time", "last-modified"):
            if found := iso(value):
                metadata.setdefault("modified", found)
        elif name == "keywords":
            metadata["tags"] = [tag.strip() for tag in value.split(",")]
        elif name in ("description", "og:description"):
            metadata.setdefault("description", value)
        elif name == "og:title" and not title:
            title = value
        elif (
            name in ("dc.language", "dcterms.language") or (meta.get("http-equiv") or "").lower() == "content-language"
        ):
            metadata.setdefault("language", value)
    return title, metadata


class Walker:
    """Writes the blocks of an element tree; `kind` is what a plain block becomes."""

    def __init__(self, writer: BlockWriter) -> None:
        self._writer = writer

    def walk(self, node: Node, kind: Kind = "paragraph", depth: int = 0) -> None:
        """Write all that is inside `node`."""
        if depth > _MAX_DEPTH:
            self._writer.text(node.text_content())
            return
        self._writer.text(_space(node.text))
        ordinal = _start(node) if node.tag == "ol" else 0
        for child in node:
            if isinstance(child.tag, str):
                tag = child.tag.rpartition("}")[2].lower()
                if tag == "li" and node.tag == "ol":
                    self._item(child, f"{ordinal}. ", depth)
                    ordinal += 1
                else:
                    self._child(child, tag, kind, depth + 1)
            self._writer.text(_space(child.tail))

    def _child(self, node: Node, tag: str, kind: Kind, depth: int) -> None:
        writer = self._writer
        if tag in _SKIPPED or _is_hidden(node):
            return
        if tag == "br":
            writer.text("\n")
        elif tag in _INLINE:
            self.walk(node, kind, depth)
        elif tag in _HEADINGS:
            writer.flush(kind)
            level = _HEADINGS[tag]
            before = len(writer.elements)
            self.walk(node, "paragraph", depth)
            if len(writer.elements) == before:
                writer.flush("heading", level=level)
            else:  # a heading with blocks inside: each is one
                writer.flush("heading", level=level)
        elif tag in ("pre", "listing", "xmp"):
            writer.flush(kind)
            writer.add(Element("code", node.text_content(), page=writer.page, language=_language(node)))
        elif tag == "table":
            writer.flush(kind)
            self._table(node, kind, depth)
        elif tag == "li":
            self._item(node, "", depth)
        elif tag in ("dt", "dd"):
            self._block(node, "list_item", kind, depth)
        elif tag == "blockquote":
            self._block(node, "quote", kind, depth)
        elif tag in ("figcaption", "caption"):
            self._block(node, "caption", kind, depth)
        elif tag == "hr":
            writer.flush(kind)
        else:
            self._block(node, kind, kind, depth)

    def _block(self, node: Node, kind: Kind, outer: Kind, depth: int) -> None:
        self._writer.flush(outer)
        self.walk(node, kind, depth)
        self._writer.flush(kind)

    def _item(self, node: Node, prefix: str, depth: int) -> None:
        """A list item; blocks after its first one stay items of their own."""
        writer = self._writer
        writer.flush()
        before = len(writer.elements)
        self.walk(node, "list_item", depth + 1)
        writer.flush("list_item")
        if prefix and len(writer.elements) > before and writer.elements[before].kind == "list_item":
            first = writer.elements[before]
            writer.elements[before] = Element("list_item", prefix + first.text.strip(), page=first.page)

    def _table(self, node: Node, kind: Kind, depth: int) -> None:
        rows = [row for row in node.iter("tr") if next(row.iterancestors("table")) is node]
        if _is_layout(node, rows):
            for row in rows:
                for cell in row:
                    if isinstance(cell.tag, str):
                        self._block(cell, kind, kind, depth + 1)
            return
        writer = self._writer
        for caption in node.findall("caption"):
            self._block(caption, "caption", kind, depth)
        writer.add(table(([_cell(cell) for cell in row if cell.tag in ("td", "th")] for row in rows), page=writer.page))


def _is_layout(node: Node, rows: list[Node]) -> bool:
    """A table that only arranges a page: it holds tables or headings, or has a single cell in every row."""
    if (node.get("role") or "").lower() in ("presentation", "none"):
        return True
    if node.find(".//table") is not None or any(
        node.find(f".//{tag}") is not None for tag in ("h1", "h2", "h3", "pre")
    ):
        return True
    return all(sum(cell.tag in ("td", "th") for cell in row) <= 1 for row in rows)


def _cell(node: Node) -> Cell:
    writer = BlockWriter()
    Walker(writer).walk(node)
    writer.flush()
    text = " ".join(element.text for element in writer.elements)
    return Cell(text, _span(node.get("colspan")), _span(node.get("rowspan")), header=node.tag == "th")


def _span(value: str | None) -> int:
    return int(value) if value and value.strip().isascii() and value.strip().isdigit() and len(value) < 6 else 1


def _start(node: Node) -> int:
    value = (node.get("start") or "1").strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 9 else 1


def _language(node: Node) -> str | None:
    for candidate in (node, *node.iter("code"), *list(node.iterancestors())[:2]):
        if found := candidate.get("data-lang") or candidate.get("data-language"):
            return str(found)
        if match := _LANGUAGE.search(candidate.get("class") or ""):
            return match.group(1)
    return None


def _is_hidden(node: Node) -> bool:
    if node.get("hidden") is not None or node.get("aria-hidden") == "true" or node.get("role") == "navigation":
        return True
    style = node.get("style")
    return bool(style and _HIDDEN.search(style))


def _space(text: str | None) -> str | None:
    """Line breaks of the source are spaces in HTML."""
    return re.sub(r"\s+", " ", text) if text else text


def table_in(text: str, page: int | None = None) -> Element | None:
    """The first table in a piece of HTML as a table element; None where there is none with text."""
    root = tree(text)
    node = None if root is None else next(root.iter("table"), None)
    if node is None:
        return None
    return table(([_cell(cell) for cell in row if cell.tag in ("td", "th")] for row in node.iter("tr")), page=page)
