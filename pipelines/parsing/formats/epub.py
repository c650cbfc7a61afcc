"""EPUB: the chapters in the order of the book's spine, each read as XHTML."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from pipelines.parsing.archives import Container
from pipelines.parsing.decoding import declared_charset, decode
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.failures import Damaged, Encrypted
from pipelines.parsing.formats import html
from pipelines.parsing.limits import Limits
from pipelines.parsing.office import describe
from pipelines.parsing.xml_safety import attribute, local, parse_xml, refuse_entity_bomb

_XHTML = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def parse(content: bytes, _media_type: str, config: Limits) -> Parsed:
    """The book's elements.

    Raises:
        ArchiveBomb, Damaged, Encrypted: see `Container`.
    """
    container = Container(content, config)
    if "META-INF/encryption.xml" in container and b"EncryptedKey" in container.read("META-INF/encryption.xml"):
        raise Encrypted("the book is protected (digital rights management)")
    package_name = _package(container)
    package = parse_xml(container.read(package_name), recover=True)
    title, metadata = describe(package)
    base = posixpath.dirname(package_name)
    items = {
        attribute(item, "id"): (
            posixpath.normpath(posixpath.join(base, unquote(attribute(item, "href")))),
            attribute(item, "media-type"),
        )
        for item in package.iter("{*}item")
    }
    order = [
        attribute(reference, "idref")
        for reference in package.iter("{*}itemref")
        if attribute(reference, "linear") != "no"
    ]
    out: list[Element] = []
    read, missing = 0, []
    for reference in order:
        name, media_type = items.get(reference, ("", ""))
        if media_type not in _XHTML:
            continue
        if name not in container:
            missing.append(name)
            continue
        raw = container.read(name)
        refuse_entity_bomb(raw)
        out.extend(html.parse_text(decode(raw, declared=declared_charset(raw[:1024]))).elements)
        read += 1
    if missing and not read:
        raise Damaged(f"all {len(missing)} chapters that its spine names are missing, the first is {missing[0]!r}")
    return Parsed(tuple(out), title, metadata)


def _package(container: Container) -> str:
    if "META-INF/container.xml" in container:
        for node in parse_xml(container.read("META-INF/container.xml"), recover=True).iter():
            if local(node) == "rootfile" and attribute(node, "full-path") in container:
                return attribute(node, "full-path")
    found = next((name for name in container.names() if name.endswith(".opf")), None)
    if found is None:
        raise Damaged("it has no package document; it is no complete EPUB")
    return found
