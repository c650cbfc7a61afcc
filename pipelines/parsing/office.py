"""What office documents have in common: document properties and the relationships that name the main part."""

from __future__ import annotations

import re

from pipelines.parsing.archives import Container
from pipelines.parsing.dates import iso
from pipelines.parsing.elements import Value
from pipelines.parsing.failures import Damaged
from pipelines.parsing.xml_safety import Node, all_text, attribute, local, parse_xml

_TYPES = "[Content_Types].xml"
_OOXML = b"application/vnd.openxmlformats-officedocument."
_PLAIN = (
    (
        re.compile(
            rb"application/vnd\.(?:ms-word|openxmlformats-officedocument\.wordprocessingml)\.(?:template|document)(?:\.macroEnabled\w*)?\.main\+xml"
        ),
        _OOXML + b"wordprocessingml.document.main+xml",
    ),
    (
        re.compile(
            rb"application/vnd\.(?:ms-powerpoint|openxmlformats-officedocument\.presentationml)\.(?:template|slideshow|presentation)(?:\.macroEnabled)?\.main\+xml"
        ),
        _OOXML + b"presentationml.presentation.main+xml",
    ),
)
_NO_TITLE = ("powerpoint presentation", "powerpoint-präsentation", "untitled", "document", "slide 1", "presentation")


def main_part(container: Container, usual: str) -> str:
    """The name of an OOXML package's main part, by its relationships; `usual` where they do not tell."""
    if "_rels/.rels" not in container:
        return usual
    for relation in parse_xml(container.read("_rels/.rels"), recover=True):
        if attribute(relation, "Type").endswith("/officeDocument"):
            return attribute(relation, "Target").lstrip("/")
    return usual


def as_plain_document(container: Container) -> dict[str, bytes]:
    """The content types part with templates, slide shows and macro-enabled kinds declared as the plain kind.

    python-docx and python-pptx open only the plain kinds, though the others differ in nothing that they read.
    """
    if _TYPES not in container:
        return {}
    types = container.read(_TYPES)
    for pattern, plain in _PLAIN:
        types = pattern.sub(plain, types)
    return {_TYPES: types}


def core_properties(container: Container) -> tuple[str, dict[str, Value]]:
    """Title and metadata of an OOXML package; nothing where the part is missing or damaged."""
    name = next((n for n in container.names() if n.lower().endswith("core.xml") and "docprops" in n.lower()), None)
    if name is None:
        return "", {}
    try:
        root = parse_xml(container.read(name), recover=True)
    except Damaged:
        return "", {}
    return describe(root)


def describe(root: Node) -> tuple[str, dict[str, Value]]:
    """Title and metadata from Dublin Core terms, wherever in the tree they are (OOXML, OpenDocument, EPUB)."""
    title, authors, tags, metadata = "", [], [], dict[str, Value]()
    for node in root.iter("{*}*"):
        name, text = local(node), " ".join(all_text(node).split()) if len(node) == 0 else ""
        if not text:
            continue
        match name:
            case "title" if not title and text.lower() not in _NO_TITLE:
                title = text
            case "creator" | "initial-creator":
                authors.append(text)
            case "created" | "creation-date":
                _date(metadata, "created", text)
            case "modified":
                _date(metadata, "modified", text)
            case "date":
                _date(metadata, "modified" if "openoffice" in str(node.tag) or _is_odf(root) else "created", text)
            case "language":
                metadata.setdefault("language", text)
            case "keywords":
                tags += [part.strip() for part in text.replace(";", ",").split(",")]
            case "keyword":
                tags.append(text)
            case "subject":
                if root.tag is not None and local(root) == "package":
                    tags.append(text)
                else:
                    metadata.setdefault("subject", text)
            case "description":
                metadata.setdefault("description", text)
    if authors:
        metadata["author"] = "; ".join(dict.fromkeys(authors))
    if tags:
        metadata["tags"] = tags
    return title, metadata


def _is_odf(root: Node) -> bool:
    return local(root) == "document-meta"


def _date(metadata: dict[str, Value], key: str, text: str) -> None:
    if found := iso(text):
        metadata.setdefault(key, found)
