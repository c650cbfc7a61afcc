"""`parse_stage`: content hashes and media types in, rows of the `elements` table out, one for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.config import ParsingConfig
from pipelines.lake.schemas import ELEMENTS
from pipelines.parsing.elements import KINDS
from pipelines.parsing.failures import NO_TEXT, Crashed, MemoryLimit, TimeLimit
from pipelines.parsing.pool import Pool, Request
from pipelines.parsing.routes import parser_fp

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]

_BATCH_ROWS = 512
_BATCH_CHARACTERS = 8_000_000
_TRANSIENT = frozenset(reason.__name__ for reason in (TimeLimit, MemoryLimit, Crashed))
_FIELDS = ("kind", "text", "level", "page", "html", "language")


def parse_stage(config: ParsingConfig, read: Callable[[str], bytes]) -> Stage:
    """A stage that parses documents in guarded worker processes.

    Input batches have `content_hash` and `media_type`; output batches have the schema of the elements table, one row an
    input row, in the order in which the documents are finished. A document that cannot be parsed is a row with status
    `failed` and a reason, one without text a row with status `empty`; neither raises.

    Args:
        config: limits and number of workers.
        read: the bytes of a content hash; called in the caller's thread, its errors pass through. Must be picklable
            for the stage to be.
    """
    return _ParseStage(config, read)


@dataclass(frozen=True, slots=True)
class _ParseStage:
    config: ParsingConfig
    read: Callable[[str], bytes]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows: list[dict[str, Any]] = []
        characters = 0
        with Pool(self.config) as pool:
            for request, answer in pool.run(self._requests(batches)):
                row = self._row(request, answer)
                rows.append(row)
                characters += row["characters"]
                if len(rows) >= _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
                    yield pa.RecordBatch.from_pylist(rows, schema=ELEMENTS)
                    rows, characters = [], 0
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema=ELEMENTS)

    def _requests(self, batches: Iterator[pa.RecordBatch]) -> Iterator[Request]:
        for batch in batches:
            hashes, types = batch.column("content_hash").to_pylist(), batch.column("media_type").to_pylist()
            for content_hash, media_type in zip(hashes, types, strict=True):
                yield Request(content_hash, media_type, self.read(content_hash))

    def _row(self, request: Request, answer: dict[str, Any]) -> dict[str, Any]:
        if not _well_formed(answer):
            answer = {
                "status": "failed",
                "error_class": Crashed.__name__,
                "error": f"the process that read it as {request.media_type} gave a malformed answer",
            }
        elements = answer.get("elements") or []
        status, error_class, error = answer["status"], answer.get("error_class"), answer.get("error")
        if status == "empty":
            error_class, error = NO_TEXT, "it has no text"
        return {
            "content_hash": request.key,
            "parser_fp": parser_fp(request.media_type, self.config),
            "status": status,
            "error_class": error_class,
            "error": error,
            "transient": error_class in _TRANSIENT,
            "title": answer.get("title") or "",
            "metadata": answer.get("metadata") or "{}",
            "pages": answer.get("pages"),
            "characters": sum(len(element["text"]) for element in elements),
            "seconds": float(answer.get("seconds") or 0.0),
            "elements": elements,
        }


def _well_formed(answer: dict[str, Any]) -> bool:
    """Whether an answer can be stored: the worker has read hostile bytes, so its word is checked."""
    elements = answer.get("elements") or []
    if answer.get("status") not in ("parsed", "empty", "failed") or not isinstance(elements, list):
        return False
    if bool(elements) != (answer["status"] == "parsed"):
        return False
    try:
        metadata = json.loads(answer.get("metadata") or "{}")
    except ValueError:
        return False
    texts = (answer.get("error_class"), answer.get("error"), answer.get("title"))
    return (
        isinstance(metadata, dict)
        and all(value is None or (isinstance(value, str) and _encodable(value)) for value in texts)
        and isinstance(answer.get("pages"), int | None)
        and all(map(_is_element, elements))
    )


def _is_element(element: Any) -> bool:
    return (
        isinstance(element, dict)
        and element.keys() == set(_FIELDS)
        and element["kind"] in KINDS
        and isinstance(element["text"], str)
        and _encodable(element["text"])
        and isinstance(element["level"], int | None)
        and isinstance(element["page"], int | None)
        and all(
            element[key] is None or (isinstance(element[key], str) and _encodable(element[key]))
            for key in ("html", "language")
        )
    )


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
