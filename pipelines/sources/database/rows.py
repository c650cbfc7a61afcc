"""Values of database rows as Lockstep's own: keys as uris, times, tombstones, readers. Nothing is read here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from pipelines.errors import AccessError
from pipelines.sources.addresses.uris import decode_uri, encode_key

MAX_KEY_BYTES = 1_024  # uris are matched with access rules and stored in the index
_SEVERAL = re.compile(r"[\s,;](user|group|role):")  # a second principal in one line, or an odd name
_FRACTION = re.compile(r"\.(\d+)")
_NOT_DELETED = frozenset({"", "0", "f", "false", "n", "no"})
_SINCE = datetime(1970, 1, 1, tzinfo=UTC)
# Whole numbers count seconds, milliseconds, microseconds or nanoseconds; which one tells their size until 5138.
_SCALES = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (float("inf"), 1e9))


class BadRow(Exception):
    """A row that is no document. `uri` is empty when its key cannot be used."""

    def __init__(self, error_class: str, reason: str, uri: str = "") -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.uri = uri


def uri_of(values: Sequence[object]) -> str:
    """The uri of a key: its text; of a key of several columns their texts between slashes, a slash inside as %2F.

    Raises:
        BadRow: a part is missing, of a type that has no one text, not UTF-8, or too long.
    """
    parts = [_key_text(value) for value in values]
    one = len(parts) == 1
    uri = encode_key(parts[0]) if one else "/".join(encode_key(part).replace("/", "%2F") for part in parts)
    if len(uri.encode()) > MAX_KEY_BYTES:
        raise BadRow("BadKey", f"its key has more than {MAX_KEY_BYTES:,} bytes")
    return uri


def key_of(uri: str, columns: int) -> tuple[str, ...] | None:
    """The texts of a key's columns; None for a uri that no row has."""
    parts = [uri] if columns == 1 else uri.split("/")
    try:
        texts = tuple(decode_uri(part).decode("utf-8") for part in parts)
        return texts if len(texts) == columns and uri_of(texts) == uri else None
    except (UnicodeDecodeError, BadRow):
        return None


def _key_text(value: object) -> str:
    if value is None or value == "":
        raise BadRow("MissingKey", "its key is empty or NULL")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRow("BadKey", "its key is not valid text") from None
        return value
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    if isinstance(value, int | UUID | Decimal) and not isinstance(value, bool):
        return str(value)
    raise BadRow("BadKey", f"its key is a {type(value).__name__}; text, a whole number, a UUID or a date is needed")


def stamp(value: object) -> tuple[str, datetime]:
    """A time stamp as the etag, to the last digit that it has, and as a time. A time without a zone is UTC.

    Raises:
        BadRow: it is missing, or no time.
    """
    if value is None:
        raise BadRow("MissingTime", "it has no time of its last change, so that nobody can tell when it changes")
    try:
        if isinstance(value, datetime):
            at = value if value.tzinfo else value.replace(tzinfo=UTC)
            at = at.astimezone(UTC)
            return at.isoformat(), at
        if isinstance(value, date):
            return value.isoformat(), datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, str):
            at = datetime.fromisoformat(value.strip())
            return value.strip(), (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return str(value), _SINCE + timedelta(seconds=float(value) / scale_of(float(value)))
    except (ValueError, OverflowError):
        pass
    shown = repr(value)[:60]
    raise BadRow("BadTime", f"the time of its last change is {shown}, which is no time between the years 1 and 9999")


def scale_of(number: float) -> float:
    """How many of the units that a number counts since 1970 make a second."""
    return next(scale for below, scale in _SCALES if abs(number) < below)


def has_fraction(etag: str) -> bool:
    """Whether a time stamp says more than whole seconds."""
    found = _FRACTION.search(etag)
    digits = found[1] if found else etag[10:] if etag.isdigit() else ""  # milliseconds or finer, as a whole number
    return bool(digits.strip("0"))


def is_deleted(value: object) -> bool:
    """Whether a tombstone column says that the row is deleted: true, not zero, or any time or text but "no"."""
    if isinstance(value, bytes | memoryview):
        return any(bytes(value))
    if isinstance(value, str):
        return value.strip().lower() not in _NOT_DELETED
    return bool(value)


def readers_of(value: object) -> tuple[str, ...] | None:
    """The principals of a column: an array, a JSON list, or text with one principal a line; NULL reports nothing.

    Raises:
        AccessError: one of them is no principal, or a line could be one or several: names may hold commas and spaces.
    """
    from pipelines.principals import access_set

    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError:
                raise AccessError(f"{text[:60]!r} is no JSON list of principals") from None
        else:
            value = [line.strip() for line in text.splitlines() if line.strip()]
            unclear = next((line for line in value if _SEVERAL.search(line)), None)
            if unclear is not None:
                raise AccessError(f"{unclear[:60]!r} may be one principal or several; give a JSON list, or one a line")
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise AccessError(f"{str(value)[:60]!r} is no list of principals")
    return access_set(value)


def plain(value: object) -> str | None:
    """A value as metadata; None for nothing, or for something nested."""
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal | UUID):
        return None
    text = str(value).encode("utf-8", "replace").decode().strip()
    return text or None


def content_of(value: object, uri: str) -> bytes:
    """The bytes of a text column.

    Raises:
        BadRow: it is NULL, not UTF-8, or neither text nor bytes.
    """
    if value is None:
        raise BadRow("MissingText", f"the row {uri} has no text (NULL)", uri)
    if isinstance(value, str):
        try:
            return value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRow("BadRow", f"the text of the row {uri} is not valid UTF-8", uri) from None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise BadRow("BadRow", f"the text of the row {uri} is a {type(value).__name__}; text or bytes are needed", uri)
