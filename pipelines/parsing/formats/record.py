"""One record of a records source, as the source wrote it: a JSON object with `title`, `text` and `metadata`."""

from __future__ import annotations

import json
import math
from typing import Any

from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.failures import Damaged
from pipelines.parsing.formats.text import parse_text
from pipelines.parsing.limits import Limits


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The record's title and the paragraphs of its text.

    Raises:
        Damaged: it is not such an object.
    """
    try:
        record = json.loads(content)
    except ValueError as error:
        raise Damaged(f"the record is not JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise Damaged("the record has no text; expected an object with title, text and metadata")
    title, metadata = record.get("title"), record.get("metadata")
    title = title if isinstance(title, str) else ""
    body = parse_text(record["text"])
    heading = (Element("title", title),) if title.strip() else ()
    return Parsed((*heading, *body.elements) if body.elements else (), title, _plain(metadata))


def _plain(metadata: Any) -> dict[str, Value]:
    if not isinstance(metadata, dict):
        return {}
    out: dict[str, Value] = {}
    for key, value in metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            continue
        if value is None or isinstance(value, str | int | float | bool):
            out[str(key)] = value
        elif isinstance(value, list):
            out[str(key)] = [str(item) for item in value]
    return out
