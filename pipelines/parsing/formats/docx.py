"""Word documents through unstructured, which knows styles, outline levels and how lists are numbered.

Before, `docx_markup` uncovers text that it would skip; what python-docx cannot open goes to `wordprocessing`.
"""

from __future__ import annotations

import io
from typing import Any

from docx.opc.exceptions import OpcError
from lxml import etree

from pipelines.parsing import unstructured_setup
from pipelines.parsing.archives import Container, refuse_entities
from pipelines.parsing.docx_markup import flattened_package
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.failures import Damaged
from pipelines.parsing.formats import html
from pipelines.parsing.limits import Limits
from pipelines.parsing.office import core_properties, main_part
from pipelines.parsing.wordprocessing import heading_styles, paragraph_text, read_body
from pipelines.parsing.xml_safety import local, parse_xml

_NOTES = ("word/footnotes.xml", "word/endnotes.xml")


def prepare() -> None:
    """Import what is needed ahead of the first document."""
    unstructured_setup.prepare()


def parse(content: bytes, _media_type: str, config: Limits) -> Parsed:
    """The document's elements; page headers and footers only where there is nothing else.

    Raises:
        ArchiveBomb, Damaged, Encrypted: see `Container`.
    """
    container = Container(content, config)
    refuse_entities(container)
    part = main_part(container, "word/document.xml")
    if part not in container:
        raise Damaged(f"its main part {part!r} is missing; it is no complete Word document")
    try:
        elements = _through_unstructured(flattened_package(container, part))
    except (OpcError, KeyError, ValueError, AttributeError, TypeError, IndexError, etree.LxmlError):
        elements = _plainly(container, part)
    title, metadata = core_properties(container)
    elements += _notes(container)
    pages = [element.page for element in elements if element.page]
    return Parsed(tuple(elements), title, metadata, max(pages, default=None))


def _through_unstructured(package: bytes) -> list[Element]:
    prepare()
    import docx
    from unstructured.partition.docx import partition_docx

    found = partition_docx(file=io.BytesIO(package), strategy="fast", languages=[""])
    document = docx.Document(io.BytesIO(package))
    titles = {p.text.strip() for p in document.paragraphs if p.style is not None and p.style.name == "Title"}
    captions = {p.text.strip() for p in document.paragraphs if p.style is not None and p.style.name == "Caption"}
    quotes = {p.text.strip() for p in document.paragraphs if p.style is not None and "Quote" in (p.style.name or "")}
    elements = [element for item in found if (element := _element(item, titles, captions, quotes)) is not None]
    if not elements:
        seen = dict.fromkeys(item.text for item in found if item.category in ("Header", "Footer"))
        elements = [Element("paragraph", text) for text in seen]
    return elements


def _element(item: Any, titles: set[str], captions: set[str], quotes: set[str]) -> Element | None:
    text, page = item.text, item.metadata.page_number
    stripped = text.strip()
    match item.category:
        case "PageBreak" | "Header" | "Footer" | "Image":
            return None
        case "Title" if stripped in titles:
            return Element("title", text, page=page)
        case "Title":
            return Element("heading", text, level=min((item.metadata.category_depth or 0) + 1, 9), page=page)
        case "Table":
            return html.table_in(item.metadata.text_as_html or "", page) or Element("paragraph", text, page=page)
        case "ListItem":
            return Element("list_item", text, page=page)
    kind: Any = "caption" if stripped in captions else "quote" if stripped in quotes else "paragraph"
    return Element(kind, text, page=page)


def _plainly(container: Container, part: str) -> list[Element]:
    styles = parse_xml(container.read("word/styles.xml"), recover=True) if "word/styles.xml" in container else None
    root = parse_xml(container.read(part), recover=True)
    body = next(root.iter("{*}body"), root)
    return list(read_body(body, heading_styles(styles)))


def _notes(container: Container) -> list[Element]:
    """Footnotes and endnotes, which stand apart from the text."""
    out = []
    for part in _NOTES:
        if part not in container:
            continue
        root = parse_xml(container.read(part), recover=True)
        for note in root:
            if local(note) in ("footnote", "endnote"):
                text = " ".join(paragraph_text(paragraph) for paragraph in note.iter("{*}p"))
                out.append(Element("footer", text))
    return out
