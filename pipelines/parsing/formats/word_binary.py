"""Word 97-2003 documents: the text of the main story and the notes, by the piece table ([MS-DOC] 2.4.1).

Older versions (Word 6 and 95) keep their text in one run and are read by that. Styles are not read: all blocks but
tables are paragraphs or list items.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import olefile

from pipelines.parsing.elements import Element
from pipelines.parsing.failures import Damaged, Encrypted
from pipelines.parsing.list_marks import BULLET, NUMBER
from pipelines.parsing.tables import table

_WORD97 = 0x00C1
_CELL = "\x07"
_FIELD = re.compile(r"\x13[^\x13\x14\x15]*\x14([^\x13\x15]*)\x15|\x13[^\x13\x14\x15]*\x15")
_OBJECTS = dict.fromkeys(map(ord, "\x01\x02\x03\x04\x05\x08\x13\x14\x15\x1f"), None) | {
    0x1E: "-",
    0x0B: "\n",
    0x0E: "\n",
    0xA0: " ",
}


def read(ole: olefile.OleFileIO) -> list[Element]:
    """The document's elements.

    Raises:
        Encrypted: a password is needed.
        Damaged: the piece table is missing or points outside the file.
    """
    stream = ole.openstream("WordDocument").read()
    if len(stream) < 68:
        raise Damaged("its WordDocument stream is cut off")
    flags = struct.unpack_from("<H", stream, 10)[0]
    if flags & 0x0100:
        raise Encrypted("the Word document is encrypted; its password is needed")
    if struct.unpack_from("<H", stream, 2)[0] < _WORD97:
        return list(_blocks(_old_text(stream)))
    text = _pieces(ole, stream, flags)
    main, notes, headers, comments, endnotes = _stories(stream)
    out = list(_blocks(text[:main]))
    start = main
    for size, wanted in ((notes, True), (headers, False), (0, False), (comments, False), (endnotes, True)):
        if wanted and size:
            out += [Element("footer", element.text) for element in _blocks(text[start : start + size])]
        start += size
    return out


def _stories(stream: bytes) -> tuple[int, int, int, int, int]:
    """Characters of the main text, footnotes, page headers, comments and endnotes."""
    if len(stream) < 0x60:
        raise Damaged("its header is cut off")
    main, notes, headers, _, comments, endnotes = struct.unpack_from("<6i", stream, 0x4C)
    return max(main, 0), max(notes, 0), max(headers, 0), max(comments, 0), max(endnotes, 0)


def _pieces(ole: olefile.OleFileIO, stream: bytes, flags: int) -> str:
    name = "1Table" if flags & 0x0200 else "0Table"
    if not ole.exists(name):
        raise Damaged(f"its {name} stream is missing")
    tables = ole.openstream(name).read()
    offset, size = struct.unpack_from("<II", stream, 0x01A2)
    clx = tables[offset : offset + size]
    position = 0
    while position < len(clx) and clx[position] == 1:  # property modifiers come first
        position += 3 + struct.unpack_from("<H", clx, position + 1)[0]
    if position >= len(clx) or clx[position] != 2:
        raise Damaged("its piece table is missing")
    size = struct.unpack_from("<I", clx, position + 1)[0]
    plc = clx[position + 5 : position + 5 + size]
    count = (len(plc) - 4) // 12
    ends = struct.unpack_from(f"<{count + 1}I", plc, 0)
    parts = []
    for index in range(count):
        where = struct.unpack_from("<I", plc, 4 * (count + 1) + 8 * index + 2)[0]
        length = ends[index + 1] - ends[index]
        if length < 0 or length > len(stream):
            raise Damaged("its piece table is inconsistent")
        if where & 0x40000000:
            start = (where & 0x3FFFFFFF) // 2
            parts.append(stream[start : start + length].decode("cp1252", "replace"))
        else:
            parts.append(stream[where : where + 2 * length].decode("utf-16-le", "replace"))
    return "".join(parts)


def _old_text(stream: bytes) -> str:
    start, end = struct.unpack_from("<II", stream, 24)
    if not 0 < start < end <= len(stream):
        raise Damaged("the bounds of its text are inconsistent")
    return stream[start:end].decode("cp1252", "replace")


def _blocks(text: str) -> Iterator[Element]:
    """Paragraphs, and the cells between cell marks as table rows."""
    while (plain := _FIELD.sub(lambda match: match.group(1) or "", text)) != text:
        text = plain  # fields may stand inside fields
    rows: list[list[str]] = []
    for part in re.split(r"[\r\x0c]", text):
        if _CELL in part:
            # two marks in a row end a row; what follows the last one belongs to the next block
            *cells, rest = part.split(_CELL)
            rows.extend(_rows(cells))
            part = rest
            if not part.strip():
                continue
        if rows:
            yield from _table(rows)
            rows = []
        yield from _paragraph(part)
    yield from _table(rows)


def _rows(cells: list[str]) -> Iterator[list[str]]:
    row: list[str] = []
    for cell in cells:
        if cell == "" and row:
            yield [text.translate(_OBJECTS) for text in row]
            row = []
        else:
            row.append(cell)
    if row:
        yield [text.translate(_OBJECTS) for text in row]


def _table(rows: list[list[str]]) -> Iterator[Element]:
    if rows and (found := table(rows)) is not None:
        yield found


def _paragraph(text: str) -> Iterator[Element]:
    text = text.translate(_OBJECTS)
    if not text.strip():
        return
    if BULLET.match(text):
        yield Element("list_item", BULLET.sub("", text))
    else:
        yield Element("list_item" if NUMBER.match(text) and len(text) < 300 else "paragraph", text)
