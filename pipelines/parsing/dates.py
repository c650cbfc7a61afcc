"""Dates as documents write them, made ISO 8601; what cannot be read is left out rather than guessed."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

_PDF = re.compile(r"^D?:?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?\s*(?:(Z)|([+-])(\d\d)'?(\d\d)?'?)?")
_ISO_DAY = re.compile(r"^\d{4}(-\d\d){0,2}$")


def iso(value: object) -> str | None:
    """`value` as ISO 8601, in UTC where a time zone is known; None where it is no date."""
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, str) or not (text := value.strip()):
        return None
    if _ISO_DAY.match(text):
        return text
    try:
        return iso(datetime.fromisoformat(text))
    except ValueError:
        pass
    try:
        return iso(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def iso_from_pdf(value: str) -> str | None:
    """A PDF date (`D:20240131120000+01'00'`) as ISO 8601; None where it is malformed."""
    match = _PDF.match(value.strip())
    if match is None:
        return iso(value)
    year, *rest = (int(part) if part else None for part in match.groups()[:6])
    month, day, hour, minute, second = rest
    zone = None
    if match.group(7):
        zone = UTC
    elif match.group(8):
        offset = timedelta(hours=int(match.group(9)), minutes=int(match.group(10) or 0))
        zone = timezone(-offset if match.group(8) == "-" else offset)
    try:
        return iso(datetime(year or 1, month or 1, day or 1, hour or 0, minute or 0, second or 0, tzinfo=zone))
    except (ValueError, OverflowError):
        return None
