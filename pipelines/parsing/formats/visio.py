"""Visio drawings (VSDX): the text of the shapes, page by page."""

from __future__ import annotations

import re

from pipelines.parsing.archives import Container, refuse_entities
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.limits import Limits
from pipelines.parsing.office import core_properties
from pipelines.parsing.xml_safety import all_text, attribute, parse_xml

_PAGE = re.compile(r"visio/pages/page(\d+)\.xml$")


def parse(content: bytes, _media_type: str, config: Limits) -> Parsed:
    """Each page's name as a heading and its shapes' texts in the file's order.

    Raises:
        ArchiveBomb, Damaged, Encrypted: see `Container`.
    """
    container = Container(content, config)
    refuse_entities(container)
    names = []
    if "visio/pages/pages.xml" in container:
        names = [
            attribute(page, "Name")
            for page in parse_xml(container.read("visio/pages/pages.xml"), recover=True).iter("{*}Page")
        ]
    pages = sorted((int(match.group(1)), name) for name in container.names() if (match := _PAGE.match(name)))
    out: list[Element] = []
    for number, (_, part) in enumerate(pages, 1):
        texts = [all_text(node) for node in parse_xml(container.read(part), recover=True).iter("{*}Text")]
        texts = [text for text in texts if text.strip()]
        if texts:
            name = names[number - 1] if number <= len(names) else f"Page {number}"
            out.append(Element("heading", name, level=1, page=number))
            out.extend(Element("paragraph", text, page=number) for text in texts)
    title, metadata = core_properties(container)
    return Parsed(tuple(out), title, metadata, len(pages))
