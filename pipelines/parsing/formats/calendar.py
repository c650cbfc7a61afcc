"""Calendars and contact cards (iCalendar, vCalendar, vCard): a paragraph an entry, a line a property."""

from __future__ import annotations

import quopri
import re

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.limits import Limits

_FOLD = re.compile(r"\r?\n[ \t]")
_ESCAPED = re.compile(r"\\([nN,;\\])")
_ENTRIES = frozenset(("VEVENT", "VTODO", "VJOURNAL", "VCARD"))
_KEPT = frozenset(
    [
        "SUMMARY",
        "DESCRIPTION",
        "LOCATION",
        "DTSTART",
        "DTEND",
        "DUE",
        "ORGANIZER",
        "ATTENDEE",
        "CATEGORIES",
        "STATUS",
        "COMMENT",
        "CONTACT",
        "URL",
        "FN",
        "N",
        "ORG",
        "TITLE",
        "ROLE",
        "TEL",
        "EMAIL",
        "ADR",
        "NOTE",
        "BDAY",
        "NICKNAME",
    ]
)


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The entries in the file's order."""
    out: list[Element] = []
    lines: list[str] = []
    for raw in _FOLD.sub("", decode(content)).splitlines():
        name, separator, value = raw.partition(":")
        parameters = name.upper().split(";")
        key = parameters[0].rpartition(".")[2]
        if key in ("BEGIN", "END"):
            if value.strip().upper() in _ENTRIES and lines:
                out.append(Element("paragraph", "\n".join(lines)))
                lines = []
        elif separator and key in _KEPT:
            if "ENCODING=QUOTED-PRINTABLE" in parameters or "QUOTED-PRINTABLE" in parameters:
                value = quopri.decodestring(value.encode("utf-8", "replace")).decode("utf-8", "replace")
            value = _ESCAPED.sub(lambda m: " " if m.group(1) in "nN" else m.group(1), value).strip(" ;")
            if value:
                lines.append(f"{key.capitalize()}: {value}")
    if lines:
        out.append(Element("paragraph", "\n".join(lines)))
    return Parsed(tuple(out))
