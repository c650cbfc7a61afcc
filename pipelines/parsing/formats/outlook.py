"""Outlook messages (MSG) through python-oxmsg: header lines, body, attachments by name."""

from __future__ import annotations

import codecs
import io
import re
from typing import Any

from oxmsg import Message

from pipelines.parsing.dates import iso
from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.formats import html
from pipelines.parsing.formats.text import paragraphs


def _windows_names(name: str) -> codecs.CodecInfo | None:
    """Outlook's names of code pages ("windows-950") where Python knows them by another."""
    match = re.fullmatch(r"windows[-_](\d+)", name)
    try:
        return codecs.lookup(f"cp{match.group(1)}") if match else None
    except LookupError:
        return None


codecs.register(_windows_names)


def read(content: bytes) -> Parsed:
    """The message's elements."""
    message = Message.load(io.BytesIO(content))
    subject = (message.subject or "").strip("\x00 ")
    headers = {"From": message.sender or "", "To": _to(message), "Cc": _header(message, "Cc")}
    sent = iso(message.sent_date)
    if sent:
        headers["Date"] = _header(message, "Date") or sent
    out = [Element("title", subject)] if subject.strip() else []
    out += [Element("header", f"{name}: {value}") for name, value in headers.items() if value.strip()]
    body = message.body or ""
    rich = html.fragment(message.html_body) if message.html_body else ()
    out += rich if sum(len(e.text) for e in rich) * 2 >= len(body.strip()) and rich else paragraphs(body)
    metadata: dict[str, Value] = {
        "author": headers["From"],
        "from": headers["From"],
        "to": headers["To"],
        "cc": headers["Cc"],
    }
    metadata["created"] = sent
    names = []
    for attachment in message.attachments:
        name = (attachment.file_name or attachment.mime_type or "unnamed").strip("\x00 ")
        names.append(name)
        out.append(
            Element(
                "list_item",
                f"Attachment: {name} ({attachment.mime_type or 'unknown type'}, {attachment.size or 0:,} bytes)",
            )
        )
    metadata["attachments"] = names
    return Parsed(tuple(out), subject, metadata)


def _header(message: Any, name: str) -> str:
    found = {key.lower(): value for key, value in (message.message_headers or {}).items()}
    return str(found.get(name.lower(), ""))


def _to(message: Any) -> str:
    people = []
    for recipient in message.recipients:
        name, address = recipient.name or "", recipient.email_address or ""
        people.append(f"{name} <{address}>" if name and address and name != address else name or address)
    return _header(message, "To") or ", ".join(people)
