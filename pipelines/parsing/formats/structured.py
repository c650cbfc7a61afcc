"""JSON and newline-delimited JSON: values with the names that lead to them, a paragraph for each record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.failures import Damaged
from pipelines.parsing.limits import Limits

_MAX_DEPTH = 200


def parse(content: bytes, media_type: str, _config: Limits) -> Parsed:
    """The document's values in reading order; keys become words before them, lists of records become paragraphs.

    Raises:
        Damaged: it is not JSON.
    """
    text = decode(content).lstrip("\ufeff").strip()
    if media_type == "application/x-ndjson":
        values = [_load(line, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        values = [_load(text, None)]
    out: list[Element] = []
    for value in values:
        out.extend(_top(value))
    return Parsed(tuple(out))


def _load(text: str, line: int | None) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        where = "" if line is None else f" in line {line}"
        raise Damaged(f"it is not valid JSON{where}: {error}") from None


def _top(value: Any) -> Iterator[Element]:
    """A list gives a paragraph an entry; an object one for its plain values and one for each nested value."""
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for item in value:
            yield from _record(item)
    elif isinstance(value, dict):
        nested = {key: item for key, item in value.items() if isinstance(item, dict | list) and item}
        plain = {key: item for key, item in value.items() if key not in nested}
        yield from _record(plain)
        for key, item in nested.items():
            yield Element("heading", str(key), level=1)
            if isinstance(item, list) and any(isinstance(entry, dict) for entry in item):
                for entry in item:
                    yield from _record(entry)
            else:
                yield from _record(item)
    else:
        yield from _record(value)


def _record(value: Any) -> Iterator[Element]:
    text = "\n".join(_lines(value, "", 0))
    if text.strip():
        yield Element("paragraph", text)


def _lines(value: Any, path: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise Damaged(f"it is nested deeper than {_MAX_DEPTH} levels; no reasonable document is")
    prefix = f"{path}: " if path else ""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _lines(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list):
        if all(not isinstance(item, dict | list) for item in value):
            words = [_scalar(item) for item in value]
            if any(words):
                yield prefix + ", ".join(word for word in words if word)
        else:
            for item in value:
                yield from _lines(item, path, depth + 1)
    elif word := _scalar(value):
        yield prefix + word


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
