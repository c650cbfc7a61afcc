"""Mails (MIME) and mailboxes: header lines, body, and the list of attachments with the text of those that are text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import policy
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesParser
from typing import cast

from pipelines.parsing.dates import iso
from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.failures import Encrypted
from pipelines.parsing.formats import html
from pipelines.parsing.formats.text import paragraphs
from pipelines.parsing.limits import Limits
from pipelines.parsing.normalise import one_line

SHOWN = ("From", "To", "Cc", "Date", "Subject")
_MAX_DEPTH = 5  # mails forwarded inside mails
_MAX_PARTS = 1_000
_MESSAGE_START = re.compile(rb"^From [^\n]*\n(?=[!-9;-~]+:)", re.M)
_QUOTED_LINE = re.compile(r"^\s*>")


def parse(content: bytes, media_type: str, _config: Limits) -> Parsed:
    """The mail's elements; of a mailbox, the mails one after the other, each under a heading.

    Raises:
        Encrypted: the only content is encrypted.
    """
    if media_type == "application/mbox":
        return _mailbox(content)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in content[:64]:
        content = decode(content).encode("utf-8")
    return _mail(content)


def _mailbox(content: bytes) -> Parsed:
    starts = [match.start() for match in _MESSAGE_START.finditer(content)] or [0]
    out: list[Element] = []
    for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
        mail = _mail(content[start:end])
        out.append(Element("heading", mail.title or "(no subject)", level=1))
        out.extend(element for element in mail.elements if element.kind != "title")
    return Parsed(tuple(out), metadata={"messages": len(starts)})


def _mail(content: bytes) -> Parsed:
    message = BytesParser(policy=policy.default).parsebytes(content)
    headers = {name: value for name in SHOWN if (value := header(message, name))}
    body = list(_body(message, 0))
    attachments = list(_attachments(message))
    if not body and message.get_content_type() in (
        "multipart/encrypted",
        "application/pkcs7-mime",
        "application/x-pkcs7-mime",
    ):
        raise Encrypted("the mail's content is encrypted; the recipient's key is needed")
    subject = headers.get("Subject", "")
    out: list[Element] = [Element("title", subject)] if subject else []
    out += [Element("header", f"{name}: {value}") for name, value in headers.items() if name != "Subject"]
    metadata: dict[str, Value] = {}
    for key, name in (("author", "From"), ("from", "From"), ("to", "To"), ("cc", "Cc")):
        if name in headers:
            metadata[key] = headers[name]
    if found := iso(headers.get("Date")):
        metadata["created"] = found
    for key, name in (("message_id", "Message-ID"), ("in_reply_to", "In-Reply-To"), ("language", "Content-Language")):
        if value := header(message, name):
            metadata[key] = value
    if keywords := header(message, "Keywords"):
        metadata["tags"] = [part.strip() for part in keywords.split(",")]
    if attachments:
        metadata["attachments"] = [name for name, _ in attachments]
    for _, elements in attachments:
        body += elements
    # a file without one header and without a body is no mail; headers alone are
    return Parsed((*out, *body) if body or headers else (), subject, metadata)


def header(message: Message, name: str) -> str:
    """All values of a header, decoded, on one line; "" where it is absent."""
    try:
        values = message.get_all(name) or []
        return one_line(", ".join(str(value) for value in values))
    except (HeaderParseError, ValueError, IndexError, AttributeError, TypeError, LookupError):
        # the standard library's parser gives up on some malformed headers; the raw value is better than none
        raw = [value for key, value in message.raw_items() if key.lower() == name.lower()]
        return one_line(", ".join(_decoded(str(value)) for value in raw))


def _decoded(value: str) -> str:
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        return value


def _body(message: Message, depth: int) -> Iterator[Element]:
    """The parts that are shown, in order; of alternatives the richest that can be read."""
    kind = message.get_content_type()
    if message.get_content_maintype() == "multipart" and message.is_multipart():
        parts = cast("list[Message]", message.get_payload())[:_MAX_PARTS]
        if kind == "multipart/alternative":
            yield from _alternative(parts, depth)
        elif kind == "multipart/related" and parts:
            yield from _body(parts[0], depth)
        elif depth < _MAX_DEPTH:
            for part in parts:
                yield from _body(part, depth + 1)
    elif is_attachment(message):
        return
    elif kind == "message/rfc822" and message.is_multipart() and depth < _MAX_DEPTH:
        inner = message.get_payload(0)
        if isinstance(inner, Message):
            yield Element("heading", header(inner, "Subject") or "Forwarded message", level=2)
            for name in SHOWN[:4]:
                if value := header(inner, name):
                    yield Element("header", f"{name}: {value}")
            yield from _body(inner, depth + 1)
    elif kind == "text/html":
        yield from html.fragment(_text(message))
    elif kind in ("text/plain", "text/enriched", "text/markdown"):
        yield from _plain(_text(message))


def _alternative(parts: list[Message], depth: int) -> Iterator[Element]:
    found: dict[str, list[Element]] = {}
    for part in parts:
        elements = list(_body(part, depth + 1))
        if elements:
            found[part.get_content_type()] = elements
    best = found.get("text/html") or next(iter(reversed(found.values())), [])
    plain = found.get("text/plain", [])
    # an HTML part that is only a picture or a button says less than its plain alternative
    if sum(len(e.text) for e in best) * 2 < sum(len(e.text) for e in plain):
        best = plain
    yield from best


def _plain(text: str) -> Iterator[Element]:
    """Plain text, with the lines quoted from earlier mails as quotes."""
    run: list[str] = []
    quoted = False
    for line in [*text.replace("\r\n", "\n").split("\n"), None]:
        is_quoted = bool(line is not None and _QUOTED_LINE.match(line))
        if line is None or is_quoted != quoted:
            yield from _run(run, quoted=quoted)
            run, quoted = [], is_quoted
        if line is not None:
            run.append(line.lstrip("> ") if is_quoted else line)


def _run(lines: list[str], *, quoted: bool) -> Iterator[Element]:
    for element in paragraphs("\n".join(lines)):
        yield Element("quote", element.text) if quoted else element


def _text(message: Message) -> str:
    payload = message.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    return decode(payload, declared=message.get_content_charset())


def is_attachment(message: Message) -> bool:
    """Whether a part is listed as an attachment rather than shown."""
    if message.get_content_disposition() == "attachment":
        return True
    return message.get_content_maintype() not in ("text", "multipart", "message") or bool(
        message.get_filename() and message.get_content_type() not in ("text/plain", "text/html")
    )


def _attachments(message: Message) -> Iterator[tuple[str, list[Element]]]:
    for number, part in enumerate(message.walk()):
        if number >= _MAX_PARTS:
            return
        if part.is_multipart() or not is_attachment(part):
            continue
        kind = part.get_content_type()
        name = one_line(part.get_filename() or "")
        if not name and part.get_content_maintype() == "application" and number == 0:
            name = "content"
        payload = part.get_payload(decode=True)
        size = len(payload) if isinstance(payload, bytes) else 0
        name = name or kind
        elements = [Element("list_item", f"Attachment: {name} ({kind}, {size:,} bytes)")]
        if kind == "text/html":
            elements += html.fragment(_text(part))
        elif kind.startswith("text/"):
            elements += paragraphs(_text(part))
        yield name, elements
