"""WordprocessingML made plain before it is read: what wraps or hides text is taken away, so that no text is lost.

Content controls, tracked insertions, smart tags and fields are replaced by their content, deletions are removed, and
the paragraphs of text boxes follow the paragraph they are anchored in.
"""

from __future__ import annotations

from lxml import etree

from pipelines.parsing.archives import Container, repacked
from pipelines.parsing.office import as_plain_document
from pipelines.parsing.xml_safety import Node, local, parse_xml

_UNWRAPPED = frozenset(["ins", "moveTo", "smartTag", "customXml", "fldSimple", "sdtContent", "dir", "bdo"])
_REMOVED = frozenset(["del", "moveFrom", "Fallback", "sdtPr", "sdtEndPr", "customXmlPr", "smartTagPr"])
_BLOCKS = frozenset(["p", "tbl"])


def flatten(root: Node) -> None:
    """Change the tree of a document, header or notes part in place."""
    for node in list(root.iter(etree.Element)):
        if local(node) in _REMOVED and node.getparent() is not None:
            _remove(node)
    for box in list(root.iter("{*}txbxContent")):
        _lift(box)
    for node in list(root.iter(etree.Element)):
        if (local(node) in _UNWRAPPED or local(node) == "sdt") and node.getparent() is not None:
            _unwrap(node)


def _remove(node: Node) -> None:
    parent = node.getparent()
    parent.remove(node)


def _unwrap(node: Node) -> None:
    parent = node.getparent()
    position = parent.index(node)
    children = list(node)
    parent.remove(node)
    for offset, child in enumerate(children):
        parent.insert(position + offset, child)


def _lift(box: Node) -> None:
    """Move a text box's paragraphs behind the paragraph that holds it."""
    host = next((node for node in box.iterancestors() if local(node) == "p"), None)
    if host is None or host.getparent() is None:
        return
    parent = host.getparent()
    position = parent.index(host) + 1
    for offset, child in enumerate([child for child in box if local(child) in _BLOCKS or local(child) == "sdt"]):
        parent.insert(position + offset, child)
    if box.getparent() is not None:
        box.getparent().remove(box)


def flattened_package(container: Container, part: str) -> bytes:
    """The package with its main document flattened, and declared to be a plain document whatever kind it was."""
    root = parse_xml(container.read(part))
    flatten(root)
    document = etree.tostring(root, xml_declaration=True, encoding="UTF-8", standalone=True)
    return repacked(container, as_plain_document(container) | {part: document})
