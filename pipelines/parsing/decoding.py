"""Bytes of a text file to text: byte order mark, then strict UTF-8, then a declared charset, then detection.

The same bytes give the same text on every machine: nothing depends on the locale.
"""

from __future__ import annotations

import codecs
import re

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the same bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 64 * 1024  # enough for detection; more only costs time
_SHORT = 2_000
_WESTERN = ("cp1252", "cp1250", "cp1254", "iso8859_2", "mac_roman")
_HIGH = re.compile(rb"[\x80-\xff]+")
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9._:-]+)""")


def decode(content: bytes, *, declared: str | None = None) -> str:
    """The text of `content`; bytes that fit no encoding become U+FFFD."""
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    if (wide := _without_mark(content)) is not None:
        return content.decode(wide, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start > len(content) - 4:  # only the last character is cut off
            return content.decode("utf-8", "replace")
    if declared and (known := _codec(declared)):
        return content.decode(known, "replace")
    return content.decode(_detected(content), "replace")


def declared_charset(head: bytes) -> str | None:
    """The charset that an HTML `meta` or an XML declaration in `head` names, if Python knows it."""
    match = _DECLARED.search(head)
    return _codec(match.group(1).decode("ascii")) if match else None


def looks_like_text(head: bytes) -> bool:
    """Whether `head`, the first bytes of a file, can be text in UTF-8, UTF-16, UTF-32 or a legacy one-byte charset."""
    if any(head.startswith(mark) for mark, _ in _BOMS) or _without_mark(head) is not None:
        return True
    if b"\x00" in head:
        return False
    controls = sum(head.count(bytes((code,))) for code in (*range(1, 7), *range(14, 26), *range(28, 32)))
    if controls * 200 > len(head):
        return False
    if head.count(b"@") * 12 > len(head) and b" " not in head:  # what a space is in EBCDIC
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # a legacy charset has no control characters; compressed or signed data does
        return error.start >= len(head) - 4 or controls == 0
    return True


def _without_mark(content: bytes) -> str | None:
    """UTF-16 without a byte order mark: every other byte of mostly Latin text is zero."""
    head = content[:512]
    if len(head) < 8:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = len(head) // 2
    if odd > half * 0.8 and even < half * 0.05:
        return "utf-16-le"
    if even > half * 0.8 and odd < half * 0.05:
        return "utf-16-be"
    return None


def _codec(name: str) -> str | None:
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    return found.name if found._is_text_encoding else None  # the only way to ask


def _detected(content: bytes) -> str:
    from charset_normalizer import from_bytes

    sample = content[:_SAMPLE_BYTES]
    runs = _HIGH.findall(sample)
    western = sum(len(run) == 1 for run in runs) >= 0.6 * len(runs)  # single accented letters between plain ones
    if western and len(sample) < _SHORT:
        return "cp1252"  # too little to tell its relatives apart
    best = from_bytes(sample, chunk_size=1024, steps=5, cp_isolation=list(_WESTERN) if western else None).best()
    return best.encoding if best is not None else "cp1252"
