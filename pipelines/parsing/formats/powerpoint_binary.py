"""PowerPoint 97-2003 presentations: the text of the slides by their records ([MS-PPT] 2.3.1)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import olefile

from pipelines.parsing.elements import Element
from pipelines.parsing.failures import Damaged, Encrypted

_SLIDE, _NOTES, _MASTER, _SLIDE_LIST = 1006, 1008, 1016, 4080
_SLIDE_PERSIST, _TEXT_HEADER, _TEXT_CHARS, _TEXT_BYTES = 1011, 3999, 4000, 4008
_TITLES = (0, 6)  # text types: title, centred title
_LISTS = (1, 7, 8)  # body, half body, quarter body
_NOTES_TEXT = 2
_MAX_DEPTH = 20
_ENCRYPTED_TOKEN = 0xF3D1C4DF


def read(ole: olefile.OleFileIO) -> list[Element]:
    """The presentation's elements, the slide number as page.

    Raises:
        Encrypted: a password is needed.
        Damaged: the records are inconsistent.
    """
    if ole.exists("EncryptedSummary") or _is_encrypted(ole):
        raise Encrypted("the presentation is encrypted; its password is needed")
    stream = ole.openstream("PowerPoint Document").read()
    reader = _Reader()
    reader.records(stream, 0, len(stream), ())
    return reader.elements()


def _is_encrypted(ole: olefile.OleFileIO) -> bool:
    if not ole.exists("Current User"):
        return False
    user = ole.openstream("Current User").read(20)
    return len(user) >= 16 and int(struct.unpack_from("<I", user, 12)[0]) == _ENCRYPTED_TOKEN


class _Reader:
    """Texts of the slide list (what an outline shows) and of the slides' own shapes (text boxes)."""

    def __init__(self) -> None:
        self._outline: dict[int, list[Element]] = {}
        self._shapes: dict[int, list[Element]] = {}
        self._listed = 0
        self._drawn = 0
        self._kind = 4

    def elements(self) -> list[Element]:
        out = []
        for page in range(1, max(self._listed, self._drawn, 0) + 1):
            listed = self._outline.get(page, [])
            texts = {element.text for element in listed}
            out += listed + [element for element in self._shapes.get(page, []) if element.text not in texts]
        return out

    def records(self, data: bytes, start: int, end: int, path: tuple[int, ...]) -> None:
        """Go through the records between two offsets."""
        position = start
        while position + 8 <= end:
            version, kind, size = struct.unpack_from("<HHI", data, position)
            begin, stop = position + 8, position + 8 + size
            if stop > end:
                if not path and position == 0:
                    raise Damaged("its first record is longer than the file")
                return  # cut off: keep what was read
            self._record(data, begin, stop, version, kind, path)
            position = stop

    def _record(self, data: bytes, begin: int, stop: int, version: int, kind: int, path: tuple[int, ...]) -> None:
        if version & 0xF == 0xF:
            if kind == _SLIDE:
                self._drawn += 1
            # of the slide lists only the first (instance 0) has slides, the others masters and notes
            if kind in (_MASTER, _NOTES) or len(path) > _MAX_DEPTH or (kind == _SLIDE_LIST and version >> 4 != 0):
                return
            self.records(data, begin, stop, (*path, kind))
        elif kind == _SLIDE_PERSIST and _SLIDE_LIST in path:
            self._listed += 1
        elif kind == _TEXT_HEADER:
            self._kind = struct.unpack_from("<I", data, begin)[0] if stop - begin >= 4 else 4
        elif kind == _TEXT_CHARS:
            self._text(data[begin:stop].decode("utf-16-le", "replace"), path)
        elif kind == _TEXT_BYTES:
            self._text(data[begin:stop].decode("latin-1"), path)

    def _text(self, text: str, path: tuple[int, ...]) -> None:
        if _SLIDE_LIST in path:
            page, target = self._listed, self._outline
        elif _SLIDE in path:
            page, target = self._drawn, self._shapes
        else:
            return
        if not page or self._kind == _NOTES_TEXT:
            return
        for element in _elements(text, self._kind, page):
            target.setdefault(page, []).append(element)


def _elements(text: str, kind: int, page: int) -> Iterator[Element]:
    parts = [part.replace("\x0b", "\n").strip() for part in text.split("\r")]
    parts = [part for part in parts if part and part != "*"]
    if kind in _TITLES and parts:
        yield Element("heading", " ".join(parts), level=1, page=page)
        return
    for part in parts:
        yield Element("list_item" if kind in _LISTS and len(parts) > 1 else "paragraph", part, page=page)
