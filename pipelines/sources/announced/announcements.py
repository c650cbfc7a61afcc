"""Messages of producers as events: `schemas/change_event.v1.json` says what they may say, docs/events.md why.

Whatever a message holds, the answer is an event: one that was understood, or a rejected one that keeps the payload and
says where it is wrong. Streams and receivers hand bytes in; how they came by them is theirs.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from pipelines.errors import AccessError
from pipelines.lake.events import Event
from pipelines.principals import access_set
from pipelines.sources.announced.pointers import PointerRefused, allowed_url, normal_root
from pipelines.sources.section import SourceSection

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator, ValidationError

SCHEMA_VERSION = 1
MAX_URI_BYTES = 1_024
KEPT = ("title", "author", "version_label", "created")
"""What an event says about its document besides `metadata`; a key of `metadata` with one of these names is dropped."""

_MOST_ERRORS = 5
_MOST_CHARACTERS = 300
_MOST_DIGITS = 20
_AGAIN = "correct the producer and send the event again; nothing else of this source is affected"


class AnnouncedSection(SourceSection):
    """A source that is what its events say. `pointer_roots`: where content may be fetched from; without, nowhere."""

    pointer_roots: tuple[str, ...] = ()

    @property
    def reports_readers(self) -> bool:
        """Events may say who reads a document."""
        return True

    @property
    def announces_deletions(self) -> bool:
        """Nothing is deleted without an event that says so."""
        return True

    @field_validator("pointer_roots")
    @classmethod
    def _roots_are_addresses(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(normal_root(root) for root in roots)


class _Rejected(Exception):
    """The message cannot be understood. `uri`: whose it is, as far as that is known; `advice`: what to do."""

    def __init__(self, error_class: str, reason: str, uri: str = "", *, advice: str = _AGAIN) -> None:
        super().__init__(f"{reason}; {advice}")
        self.error_class = error_class
        self.uri = uri


def decode(
    payload: bytes,
    section: AnnouncedSection,
    *,
    origin: str,
    received_at: datetime | None = None,
    max_event_bytes: int = 8 * 1024 * 1024,
) -> Event:
    """The event that a message says, or one of type "rejected" that keeps the message and says what is wrong with it.

    Args:
        payload: the message as it came.
        section: whose it is.
        origin: where it came from, such as kafka:TOPIC[PARTITION]@OFFSET.
        received_at: when; now, without it.
        max_event_bytes: a longer message is not looked into.
    """
    received_at = received_at or datetime.now(UTC)
    try:
        return _event(_message(payload, max_event_bytes), section, origin, received_at)
    except _Rejected as error:
        return rejected(payload, section, error.error_class, str(error), origin, received_at, uri=error.uri)


def rejected(
    payload: bytes,
    section: SourceSection,
    error_class: str,
    reason: str,
    origin: str,
    received_at: datetime | None = None,
    *,
    uri: str = "",
) -> Event:
    """The event for a message that was not understood; `reason` says what to do as well."""
    return Event(
        section.name,
        uri,
        "rejected",
        origin,
        content=payload,
        size_bytes=len(payload),
        received_at=received_at or datetime.now(UTC),
        error_class=error_class,
        error=f"source {section.name!r}, message {origin}: {reason}",
    )


def _message(payload: bytes, max_event_bytes: int) -> dict[str, Any]:
    """The JSON object, valid by the schema."""
    if len(payload) > max_event_bytes:
        text = f"it has {len(payload):,} bytes, and `streams.max_event_bytes` allows {max_event_bytes:,}"
        raise _Rejected("TooLarge", text, advice="raise that, or put the content elsewhere and send a pointer to it")
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Rejected("NotUtf8", f"byte {error.start} is not UTF-8, and an event is JSON in UTF-8") from None
    try:
        message = _READER.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(message, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _Rejected("NotUtf8", "a text in it holds half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        raise _Rejected("NotJson", f"it is no JSON that can be used: {_cut(str(error))}") from None
    if not isinstance(message, dict):
        raise _Rejected("SchemaViolation", f"$ is a {_kind(message)}, and an event is an object")
    version = message.get("schema_version")
    if isinstance(version, int) and not isinstance(version, bool) and version != SCHEMA_VERSION:
        text = f"$.schema_version is {version}, and this release reads {SCHEMA_VERSION}"
        raise _Rejected("UnknownSchemaVersion", text, _uri_of(message), advice="upgrade Lockstep, then replay it")
    if not _validator().is_valid(message):
        raise _Rejected("SchemaViolation", _violations(message), _uri_of(message))
    return message


def _event(message: Mapping[str, Any], section: AnnouncedSection, origin: str, received_at: datetime) -> Event:
    uri = _uri(message["uri"])
    content, pointer, size = _content(message.get("content"), section, uri)
    attributes = {key: value for key, value in message.get("metadata", {}).items() if key not in KEPT}
    attributes |= {key: message[key] for key in KEPT if key in message}
    if "created" in message:
        attributes["created"] = _time(message, "created", uri).isoformat()
    media_type = message.get("media_type")
    return Event(
        section.name,
        uri,
        message["type"],
        origin,
        version=int(message["version"]),
        content=content,
        size_bytes=size,
        pointer=pointer,
        media_type=None if media_type is None else media_type.partition(";")[0].strip().lower(),
        attributes=attributes,
        readers=_readers(message.get("readers"), uri),
        occurred_at=_time(message, "occurred_at", uri) if "occurred_at" in message else None,
        modified_at=_time(message, "modified", uri) if "modified" in message else None,
        received_at=received_at,
    )


def _uri(uri: str) -> str:
    length = len(uri.encode("utf-8"))
    if length > MAX_URI_BYTES:
        raise _Rejected("BadUri", f"$.uri has {length:,} bytes, and {MAX_URI_BYTES:,} are allowed")
    if not uri.strip():
        raise _Rejected("BadUri", "$.uri is blank; it is the document's address inside its source")
    return uri


def _content(
    content: Mapping[str, Any] | None, section: AnnouncedSection, uri: str
) -> tuple[bytes | None, str | None, int | None]:
    """Bytes, or a pointer as canonical JSON; and the size, where it is known."""
    if content is None:
        return None, None, None
    if "text" in content:
        inline = content["text"].encode("utf-8")
        return inline, None, len(inline)
    if "base64" in content:
        try:
            inline = base64.b64decode(content["base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            text = f"$.content.base64 is not Base64 as of RFC 4648, section 4: {error}"
            raise _Rejected("BadBase64", text, uri) from None
        return inline, None, len(inline)
    pointer = dict(content["pointer"])
    try:
        pointer["url"] = allowed_url(pointer["url"], section.pointer_roots)
    except PointerRefused as error:
        advice = "then replay it, or send it again with the content inside"
        raise _Rejected("PointerRefused", f"$.content.pointer.url: {error}", uri, advice=advice) from None
    if "size" in pointer:
        pointer["size"] = int(pointer["size"])
    return None, json.dumps(pointer, ensure_ascii=False, sort_keys=True), pointer.get("size")


def _readers(readers: Sequence[str] | None, uri: str) -> tuple[str, ...] | None:
    if readers is None:
        return None
    try:
        return access_set(readers)
    except AccessError as error:
        raise _Rejected("BadReaders", f"$.readers: {error}", uri) from None


def _time(message: Mapping[str, Any], key: str, uri: str) -> datetime:
    try:
        value = datetime.fromisoformat(message[key])
        if value.tzinfo is None:
            raise ValueError("it has no offset")
        return value.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        text = f"$.{key} is no time between the years 1 and 9999 with an offset, such as 2026-05-04T10:00:00Z: {error}"
        raise _Rejected("BadTime", text, uri) from None


def _uri_of(message: Mapping[str, Any]) -> str:
    """The uri of a message that is wrong elsewhere; "" where it is itself no good."""
    uri = message.get("uri")
    if not isinstance(uri, str) or len(uri.encode("utf-8")) > MAX_URI_BYTES or not uri.isprintable():
        return ""
    return uri.strip()


def change_event_schema() -> dict[str, Any]:
    """The published JSON Schema."""
    name = f"change_event.v{SCHEMA_VERSION}.json"
    text = (files("pipelines.sources.announced") / "schemas" / name).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _validator() -> Draft202012Validator:
    from jsonschema_rs import Draft202012Validator

    return Draft202012Validator(change_event_schema(), validate_formats=True, mask="the value")


def _violations(message: Mapping[str, Any]) -> str:
    """Where the schema is not kept, and how: at most five places."""
    errors = sorted(_validator().iter_errors(message), key=lambda error: len(error.instance_path), reverse=True)
    texts = [_violation(error) for error in errors[:_MOST_ERRORS]]
    if len(errors) > _MOST_ERRORS:
        texts.append(f"and {len(errors) - _MOST_ERRORS} more")
    return "; ".join(texts)


def _violation(error: ValidationError) -> str:
    path = list(error.instance_path)
    where = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    rule = type(error.kind).__name__.rpartition("_")[2]
    if rule == "Not":
        return "$.content: a delete has none"
    if rule == "Pattern" and path[:1] == ["readers"]:
        return f"{where} is no principal: user:NAME, group:NAME or role:NAME"
    if rule == "Pattern" and path[-1:] != ["media_type"] and path[:1] != ["content"]:
        return f"{where} has control characters or line breaks"
    return f"{where}: {_cut(error.message)}"


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_cut(repr(doubled))} is there twice in one object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {_cut(text)} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"the number {_cut(text)} is too large")
    return int(text)


_READER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_finite, parse_int=_whole)


def _kind(value: object) -> str:
    names = {list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
