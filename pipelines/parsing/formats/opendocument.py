"""OpenDocument text, presentations and drawings: headings, lists, tables, notes, slides as pages."""

from __future__ import annotations

from pipelines.parsing.archives import Container, refuse_entities
from pipelines.parsing.blocks import BlockWriter
from pipelines.parsing.elements import Element, Kind, Parsed, Value
from pipelines.parsing.failures import Encrypted
from pipelines.parsing.limits import Limits
from pipelines.parsing.office import describe
from pipelines.parsing.tables import Cell, table
from pipelines.parsing.xml_safety import Node, attribute, local, parse_xml

_SKIPPED = frozenset(
    [
        "tracked-changes",
        "annotation",
        "annotation-end",
        "sequence-decls",
        "forms",
        "variable-decls",
        "user-field-decls",
        "scripts",
        "desc",
        "title",
        "date-time-decl",
        "footer-decl",
        "header-decl",
        "settings",
        "table-of-content-source",
        "index-title-template",
        "hidden-text",
        "hidden-paragraph",
    ]
)
_MAX_SPACES = 50
_MAX_DEPTH = 200
_FURNITURE = frozenset(("header", "footer", "date-time", "page-number"))


def parse(content: bytes, _media_type: str, config: Limits) -> Parsed:
    """The document's elements.

    Raises:
        ArchiveBomb, Damaged, Encrypted: see `Container`.
    """
    container = Container(content, config)
    refuse_entities(container)
    if "META-INF/manifest.xml" in container and b"encryption-data" in container.read("META-INF/manifest.xml"):
        raise Encrypted("the document is encrypted; its password is needed")
    root = parse_xml(container.read("content.xml"), recover=True)
    title, metadata = "", dict[str, Value]()
    if "meta.xml" in container:
        title, metadata = describe(parse_xml(container.read("meta.xml"), recover=True))
    reader = _Reader(_styles(root))
    for body in root.iter("{*}body"):
        reader.blocks(body, "paragraph", 0)
    out = reader.writer.elements + reader.notes
    return Parsed(tuple(out), title, metadata, reader.writer.page)


def _styles(root: Node) -> dict[str, str]:
    """Automatic paragraph styles to the named style they are made from."""
    return {
        attribute(s, "name"): attribute(s, "parent-style-name")
        for s in root.iter("{*}style")
        if attribute(s, "parent-style-name")
    }


class _Reader:
    def __init__(self, styles: dict[str, str]) -> None:
        self.writer = BlockWriter()
        self.notes: list[Element] = []
        self._styles = styles

    def blocks(self, parent: Node, kind: Kind, depth: int) -> None:
        if depth > _MAX_DEPTH:
            return
        for node in parent:
            self._block(node, local(node), kind, depth)

    def _block(self, node: Node, name: str, kind: Kind, depth: int) -> None:
        writer = self.writer
        if name in _SKIPPED or not name or attribute(node, "display") == "none":
            return
        if name == "h":
            self._inline(node)
            level = attribute(node, "outline-level")
            writer.flush("heading", level=int(level) if level.isdigit() and 0 < int(level) < 20 else 1)
        elif name == "p":
            boxes = self._inline(node)
            style = attribute(node, "style-name")
            writer.flush(self._kind(self._styles.get(style, style), kind))
            for box in boxes:  # frames anchored in the paragraph
                self.blocks(box, kind, depth + 1)
        elif name == "list":
            for item in node:
                if local(item) in ("list-item", "list-header"):
                    self.blocks(item, "list_item", depth + 1)
        elif name == "table":
            rows = [row for row in node.iter("{*}table-row") if next(row.iterancestors("{*}table")) is node]
            writer.add(table((self._row(row) for row in rows), page=writer.page))
        elif name == "page":
            writer.page = (writer.page or 0) + 1
            self.blocks(node, kind, depth + 1)
        elif name == "notes":
            before = len(writer.elements)
            self.blocks(node, kind, depth + 1)
            writer.elements[before:] = [Element("footer", e.text, page=e.page) for e in writer.elements[before:]]
        elif name == "frame" and attribute(node, "class") == "title":
            before = len(writer.elements)
            self.blocks(node, kind, depth + 1)
            writer.elements[before:] = [
                Element("heading", e.text, level=1, page=e.page) for e in writer.elements[before:]
            ]
        elif not (name == "frame" and attribute(node, "class") in _FURNITURE):
            self.blocks(node, kind, depth + 1)

    def _kind(self, style: str, kind: Kind) -> Kind:
        name = style.lower()
        if name == "title":
            return "title"
        if name in ("caption", "illustration", "table", "figure", "drawing"):
            return "caption"
        if name in ("quotations", "quote"):
            return "quote"
        return "code" if name == "preformatted_20_text" else kind

    def _row(self, row: Node) -> list[Cell]:
        header = any(local(parent) == "table-header-rows" for parent in row.iterancestors())
        cells = []
        for node in row:
            if local(node) == "table-cell":
                inner = _Reader(self._styles)
                inner.blocks(node, "paragraph", 1)
                self.notes += inner.notes
                text = " ".join(element.text for element in inner.writer.elements)
                cells.append(
                    Cell(
                        text,
                        _number(node, "number-columns-spanned"),
                        _number(node, "number-rows-spanned"),
                        header=header,
                    )
                )
        return cells

    def _inline(self, node: Node) -> list[Node]:
        """Write a paragraph's text; returns the text boxes inside it."""
        boxes: list[Node] = []
        self._spans(node, boxes, 0)
        return boxes

    def _spans(self, node: Node, boxes: list[Node], depth: int) -> None:
        writer = self.writer
        writer.text(node.text)
        for child in node:
            name = local(child)
            if name == "s":
                count = attribute(child, "c")
                writer.text(" " * min(int(count) if count.isdigit() and len(count) < 5 else 1, _MAX_SPACES))
            elif name == "tab":
                writer.text("\t")
            elif name == "line-break":
                writer.text("\n")
            elif name == "note":
                self._note(child)
            elif name in ("text-box", "image", "object", "table"):
                boxes.append(child.getparent() if name == "table" else child)
            elif name not in _SKIPPED and depth < _MAX_DEPTH:
                self._spans(child, boxes, depth + 1)
            writer.text(child.tail)

    def _note(self, note: Node) -> None:
        inner = _Reader(self._styles)
        for body in note.iter("{*}note-body"):
            inner.blocks(body, "paragraph", 1)
        self.notes += [Element("footer", element.text) for element in inner.writer.elements]


def _number(node: Node, name: str) -> int:
    value = attribute(node, name)
    return int(value) if value.isdigit() and len(value) < 5 else 1
