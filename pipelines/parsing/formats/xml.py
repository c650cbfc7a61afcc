"""XML of any vocabulary: known names (books, articles, feeds) give structure, other leaves `name: value` lines."""

from __future__ import annotations

import re

from pipelines.parsing.blocks import BlockWriter
from pipelines.parsing.dates import iso
from pipelines.parsing.elements import Element, Kind, Parsed, Value
from pipelines.parsing.failures import Damaged
from pipelines.parsing.formats import html
from pipelines.parsing.limits import Limits
from pipelines.parsing.normalise import one_line
from pipelines.parsing.tables import Cell, table
from pipelines.parsing.wordprocessing import heading_styles, read_body
from pipelines.parsing.xml_safety import Node, all_text, attribute, local, parse_xml

_TITLES = frozenset(
    [
        "title",
        "article-title",
        "head",
        "heading",
        "headline",
        "subtitle",
        "invention-title",
        "headi",
        "label-title",
        "bridgehead",
    ]
)
_SECTIONS = frozenset(
    [
        "sec",
        "section",
        "chapter",
        "part",
        "div",
        "div1",
        "div2",
        "div3",
        "div4",
        "appendix",
        "app",
        "abstract",
        "article",
        "body",
        "back",
        "front",
        "book",
        "bookinfo",
        "sect1",
        "sect2",
        "sect3",
        "sect4",
        "topic",
        "conbody",
        "taskbody",
        "refbody",
        "description",
        "claims",
        "ref-list",
        "poem",
        "stanza",
        "annotation",
    ]
)
_PARAGRAPHS = frozenset(
    [
        "p",
        "para",
        "simpara",
        "formalpara",
        "v",
        "subtitle",
        "text-author",
        "summary",
        "claim-text",
        "simplesect",
        "note",
        "shortdesc",
        "textline",
    ]
)
_ITEMS = frozenset(["li", "list-item", "listitem", "item", "member", "ref", "claim", "step"])
_QUOTES = frozenset(["blockquote", "disp-quote", "epigraph", "cite", "quote"])
_CODE = frozenset(["programlisting", "screen", "pre", "code", "codeblock", "literallayout", "preformat"])
_SKIPPED = frozenset(
    ["style", "script", "binary", "image", "graphic", "inline-graphic", "media", "processing-meta", "object-id"]
)
_MIXED = re.compile(r"\S")
_MAX_DEPTH = 250
_ENTRY = frozenset(["entry", "td", "th", "tc"])


def parse(content: bytes, media_type: str, config: Limits) -> Parsed:
    """The document's elements.

    Raises:
        ArchiveBomb: its entities are made to multiply.
        Damaged: it is not well-formed.
    """
    content = _as_utf8(content)
    try:
        root = parse_xml(content, recover=media_type == "image/svg+xml")
    except Damaged:
        if content.startswith(b"<?xml") or b"<!DOCTYPE" in content or not content.startswith(b"<"):
            raise
        root = parse_xml(b"<fragment>" + content + b"</fragment>")  # several roots: a piece of a document
    name = local(root)
    if name == "html":
        return html.parse(content, media_type, config)
    if (
        name in ("package", "wordDocument")
        and next(root.iter("{*}body"), None) is not None
        and "microsoft" in str(root.nsmap) + str(root.tag)
    ):
        return _word(root)
    reader = _Reader()
    reader.walk(root, 0, 0)
    reader.writer.flush()
    reader.end_values()
    title, metadata = _describe(root)
    return Parsed(tuple(reader.writer.elements), title, metadata)


def _as_utf8(content: bytes) -> bytes:
    """Lxml reads what the declaration says; a file in UTF-16 that declares UTF-8 is common, and made true here."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.decode("utf-16", "replace")
        return re.sub(r"^(\s*<\?xml[^>]*?)\s+encoding\s*=\s*[\"'][^\"']*[\"']", r"\1", text, count=1).encode("utf-8")
    return content.lstrip(b"\xef\xbb\xbf \t\r\n")


def _word(root: Node) -> Parsed:
    """Word's single-file XML: of 2003, or a package written as one file."""
    body = next(root.iter("{*}body"))
    styles = heading_styles(next(root.iter("{*}styles"), None))
    return Parsed(tuple(read_body(body, styles)))


def _describe(root: Node) -> tuple[str, dict[str, Value]]:
    """Title and metadata by the names that most vocabularies share; a body's own titles do not count."""
    title, metadata = "", dict[str, Value]()
    authors: list[str] = []
    tags: list[str] = []
    language = root.get("{http://www.w3.org/XML/1998/namespace}lang") or root.get("lang")
    if language:
        metadata["language"] = language
    for node in root.iter("{*}*"):
        name = local(node)
        if name in ("body", "text", "entry") and node is not root:
            break
        if name in ("article-title", "book-title", "invention-title", "title") and not title:
            if not any(
                local(parent) in ("sec", "section", "ref", "abstract", "item") for parent in node.iterancestors()
            ):
                title = one_line(all_text(node))
        elif name in ("creator", "author", "contrib", "ownerName"):
            authors.append(one_line(" ".join(node.itertext())))
        elif name in ("kwd", "keyword", "subject", "category") and len(node) == 0 and node.text:
            tags.append(node.text)
        elif name in ("date", "created", "published", "dateCreated", "updated") and (
            found := iso(attribute(node, "value") or node.text)
        ):
            metadata.setdefault("created", found)
        elif name in ("language", "lang") and len(node) == 0 and node.text:
            metadata.setdefault("language", node.text)
    if authors:
        metadata["author"] = "; ".join(dict.fromkeys(filter(None, authors)))[:500]
    if tags:
        metadata["tags"] = tags
    return title, metadata


class _Reader:
    def __init__(self) -> None:
        self.writer = BlockWriter()
        self._values: list[str] = []

    def walk(self, node: Node, sections: int, depth: int, kind: Kind = "paragraph") -> None:
        """Write what is inside `node`; `sections` counts the sections around it."""
        if depth > _MAX_DEPTH:
            raise Damaged(f"it is nested deeper than {_MAX_DEPTH} levels; no reasonable document is")
        self._text(node.text)
        for child in node:
            self._child(child, local(child), sections, depth + 1, kind)
            self._text(child.tail)

    def end_values(self) -> None:
        """End a run of `name: value` lines."""
        if self._values:
            self.writer.add(Element("paragraph", "\n".join(self._values)))
            self._values = []

    def _text(self, text: str | None) -> None:
        if text and text.strip():
            self.writer.text(re.sub(r"\s+", " ", text))
        elif text:
            self.writer.text(" ")

    def _child(self, node: Node, name: str, sections: int, depth: int, kind: Kind) -> None:
        if not name or name in _SKIPPED:
            return
        if name in ("table", "tgroup", "informaltable"):
            self._end(kind)
            self._table(node, sections, depth)
        elif name == "outline" and (text := attribute(node, "text")):
            self._end(kind)
            self.writer.add(Element("list_item", text))
            self.walk(node, sections, depth, kind)
        elif name in _TITLES:
            self._end(kind)
            self.walk(node, sections, depth)
            self.end_values()
            self.writer.flush("heading", level=min(max(sections, 1), 6))
        elif name in _CODE and (name != "code" or "\n" in (node.text or "")):
            self._end(kind)
            self.writer.add(Element("code", all_text(node), language=attribute(node, "language") or None))
        elif name in _PARAGRAPHS or name in _ITEMS or name in _QUOTES or name == "caption":
            inner: Kind = (
                "list_item"
                if name in _ITEMS
                else "quote"
                if name in _QUOTES
                else "caption"
                if name == "caption"
                else kind
            )
            self._end(kind)
            self.walk(node, sections, depth, inner)
            self._end(inner)
        elif name in _SECTIONS:
            self._end(kind)
            self.walk(node, sections + 1, depth, kind)
            self._end(kind)
        elif _is_inline(node):
            self.walk(node, sections, depth, kind)
        elif len(node) == 0:
            self._value(node, name)
        else:
            self._end(kind)
            self.walk(node, sections, depth, kind)
            self._end(kind)

    def _value(self, node: Node, name: str) -> None:
        """A leaf of data: its text after its name; text that is a whole sentence needs no name."""
        text = one_line(node.text or "")
        if not text:
            return
        self.writer.flush()
        self._values.append(text if len(text) > 200 else f"{name}: {text}")

    def _end(self, kind: Kind) -> None:
        self.end_values()
        self.writer.flush(kind)

    def _table(self, node: Node, sections: int, depth: int) -> None:
        rows: list[list[Cell]] = []
        for row in node.iter("{*}row", "{*}tr"):
            header = any(local(parent) == "thead" for parent in row.iterancestors())
            cells = [c for c in row if local(c) in _ENTRY]
            rows.append(
                [
                    Cell(
                        " ".join(all_text(c).split()),
                        _span(c, "colspan"),
                        _span(c, "rowspan"),
                        header or local(c) == "th",
                    )
                    for c in cells
                ]
            )
        found = table(rows)
        if found is None:
            self.walk(node, sections, depth)
            return
        for caption in node.iter("{*}title", "{*}caption"):
            self.writer.add(Element("caption", all_text(caption)))
        self.writer.add(found)


def _is_inline(node: Node) -> bool:
    """Whether an element stands inside running text."""
    parent = node.getparent()
    if parent is None:
        return False
    before = node.getprevious()
    around = (parent.text if before is None else before.tail, node.tail)
    return any(text and _MIXED.search(text) for text in around) or local(parent) in _PARAGRAPHS | _TITLES | _ITEMS


def _span(node: Node, name: str) -> int:
    value = attribute(node, name)
    return int(value) if value.isdigit() and len(value) < 4 else 1
