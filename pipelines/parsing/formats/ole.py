"""Documents in OLE compound files (old Office formats, Outlook messages): looks inside and calls the right reader."""

from __future__ import annotations

import io
from collections.abc import Callable

import olefile

from pipelines.parsing.dates import iso
from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.failures import Damaged, Encrypted, TooLarge, Unsupported
from pipelines.parsing.formats import outlook, powerpoint_binary, spreadsheet, word_binary
from pipelines.parsing.limits import Limits

_ENCRYPTED = ("EncryptedPackage", "EncryptionInfo", "\x06DataSpaces")
_OTHERS = {
    "VisioDocument": "an old Visio drawing",
    "PrvText": "a Hangul document",
    "FileHeader": "a Hangul document",
    "Contents": "a drawing or a Works document",
    "MatOST": "a Works document",
    "StarWriterDocument": "a StarOffice text document",
    "StarCalcDocument": "a StarOffice spreadsheet",
    "StarDrawDocument3": "a StarOffice presentation",
    "PerfectOffice_MAIN": "a WordPerfect Office document",
    "Quill": "a Publisher document",
}


def parse(content: bytes, media_type: str, config: Limits) -> Parsed:
    """The document's elements, whichever of the formats it is in.

    Raises:
        Encrypted: a password is needed.
        Unsupported: the file holds something else.
        Damaged: the file is inconsistent.
    """
    try:
        ole = olefile.OleFileIO(io.BytesIO(content))
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise Damaged(f"its OLE container cannot be opened: {error}") from None
    with ole:
        names = {path[0].lower(): path[0] for path in ole.listdir(streams=True, storages=True)}
        reader: Callable[[], list[Element]]
        if any(name.lower() in names for name in _ENCRYPTED):
            raise Encrypted("the document is encrypted; its password is needed")
        if "__properties_version1.0" in names:
            return outlook.read(content)
        if "worddocument" in names:
            reader = lambda: word_binary.read(ole)  # noqa: E731
        elif "workbook" in names or "book" in names:
            reader = lambda: _workbook(ole, content)  # noqa: E731
        elif "powerpoint document" in names:
            reader = lambda: powerpoint_binary.read(ole)  # noqa: E731
        else:
            inside = next(
                (what for name, what in _OTHERS.items() if name.lower() in names), "nothing that Lockstep knows"
            )
            raise Unsupported(
                f"{media_type} is not parsed: the OLE container holds {inside}; "
                "save it as PDF, DOCX or another open format"
            )
        elements = reader()
        if sum(len(element.text) for element in elements) > config.max_characters:
            raise TooLarge(f"it has more than {config.max_characters:,} characters of text (parsing.max_characters)")
        title, metadata = _properties(ole)
    pages = max((element.page for element in elements if element.page), default=None)
    return Parsed(tuple(elements), title, metadata, pages)


def _workbook(ole: olefile.OleFileIO, content: bytes) -> list[Element]:
    name = "Workbook" if ole.exists("Workbook") else "Book"
    head = ole.openstream(name).read(8_192)
    if _has_filepass(head):
        raise Encrypted("the workbook is encrypted; its password is needed")
    return spreadsheet.read_workbook(content)


def _has_filepass(stream: bytes) -> bool:
    """Whether the first records of a workbook stream say that the rest is encrypted."""
    position = 0
    while position + 4 <= len(stream):
        record, size = (
            int.from_bytes(stream[position : position + 2], "little"),
            int.from_bytes(stream[position + 2 : position + 4], "little"),
        )
        if record == 0x2F:
            return True
        if record == 0x0A:
            return False
        position += 4 + size
    return False


def _properties(ole: olefile.OleFileIO) -> tuple[str, dict[str, Value]]:
    try:
        found = ole.get_metadata()
    except (OSError, ValueError, IndexError, TypeError, KeyError):
        return "", {}
    encoding = f"cp{found.codepage}" if isinstance(found.codepage, int) and 0 < found.codepage < 65_000 else "cp1252"
    metadata: dict[str, Value] = {}
    if author := _word(found.author, encoding):
        metadata["author"] = author
    for key, value in (("created", found.create_time), ("modified", found.last_saved_time)):
        date = iso(value)
        if date and date[:4] > "1970":
            metadata[key] = date
    if subject := _word(found.subject, encoding):
        metadata["subject"] = subject
    if keywords := _word(found.keywords, encoding):
        metadata["tags"] = [part.strip() for part in keywords.replace(";", ",").split(",")]
    title = _word(found.title, encoding)
    return ("" if title.lower() in ("powerpoint presentation", "untitled", "slide 1") else title), metadata


def _word(value: object, encoding: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode(encoding, "replace").strip("\x00 ")
        except LookupError:
            return value.decode("cp1252", "replace").strip("\x00 ")
    return value.strip("\x00 ") if isinstance(value, str) else ""
