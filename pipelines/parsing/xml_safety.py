"""XML from documents, parsed without entities, external files or networks, and refused where it tries to blow up."""

from __future__ import annotations

import re
from typing import Any

from lxml import etree

from pipelines.parsing.failures import ArchiveBomb, Damaged

Node = Any  # an lxml element

_ENTITY = re.compile(rb"<!ENTITY\s+(%\s+)?([\w.:-]+)\s+(SYSTEM|PUBLIC|[\"'])([^>]*)", re.I)
_MAX_ENTITY_REFERENCES = 64  # references inside entity values; a bomb needs entities that multiply others
_HEAD = 64 * 1024


def parse_xml(content: bytes, *, recover: bool = False) -> Node:
    """The root element.

    References to entities of the document's own are left out rather than expanded; external ones are never fetched.

    Args:
        content: the document with its declaration.
        recover: read past mistakes, as for files that people write by hand.

    Raises:
        ArchiveBomb: its entities are made to multiply.
        Damaged: it is not well-formed.
    """
    refuse_entity_bomb(content)
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        recover=recover,
    )
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise Damaged(f"it is not well-formed XML: {error.msg}") from None
    except ValueError as error:
        raise Damaged(f"it is not well-formed XML: {error}") from None
    if root is None:
        raise Damaged("it is not well-formed XML: it has no root element")
    etree.strip_elements(root, etree.Entity, with_tail=False)
    return root


def refuse_entity_bomb(content: bytes) -> None:
    """Refuse a document type definition whose entities refer to entities many times over.

    Raises:
        ArchiveBomb: such a definition was found.
    """
    if b"<!ENTITY" not in content[:_HEAD]:
        return
    start = content.find(b"<!DOCTYPE")
    end = content.find(b"]>", start)
    definition = content[max(start, 0) : end if end > 0 else _HEAD]
    references = sum(match.group(4).count(b"&") for match in _ENTITY.finditer(definition))
    if references > _MAX_ENTITY_REFERENCES or _chained(definition):
        raise ArchiveBomb(
            "its XML entities refer to one another so as to multiply when expanded; such a file is an attack"
        )


def _chained(definition: bytes) -> bool:
    """Whether expanding any entity would give more than a million characters."""
    values = {m.group(2): m.group(4) for m in _ENTITY.finditer(definition)}
    sizes: dict[bytes, int] = {}

    def size(name: bytes, depth: int) -> int:
        if name not in values or depth > 32:
            return 1 if depth <= 32 else 1 << 30
        if name not in sizes:
            value = values[name]
            sizes[name] = len(value) + sum(size(ref, depth + 1) for ref in re.findall(rb"&([\w.:-]+);", value))
        return sizes[name]

    return any(size(name, 0) > 1_000_000 for name in values)


def local(node: Node) -> str:
    """A node's tag without its namespace; "" for comments, instructions and entity references."""
    tag = node.tag
    if not isinstance(tag, str):
        return ""
    return tag.rpartition("}")[2]


def all_text(node: Node) -> str:
    """All text inside a node, in order."""
    return "".join(node.itertext())


def attribute(node: Node, name: str) -> str:
    """The value of an attribute by its name without namespace; "" where it is absent."""
    value = node.get(name)
    if value is not None:
        return str(value)
    for key, other in node.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(other)
    return ""
