"""Which rows an index must hold, worked out from documents alone: no table, no difference, no incremental step."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from functools import cache
from typing import Any

import pyarrow as pa

from pipelines.chunking.stage import chunk_stage
from pipelines.config import Config
from pipelines.identity import acl_id, chunk_id, doc_id
from pipelines.index.rows import row_hash
from pipelines.lake.schemas import ELEMENTS
from pipelines.parsing.failures import ParseFailure
from pipelines.parsing.media_types import detect_media_type
from pipelines.parsing.parser import parse
from pipelines.recipe import Recipe
from pipelines.update.snapshot.rows import HEADING_SEPARATOR, page_span

Readers = tuple[str, ...]
"""Sorted principals."""


class Oracle:
    """The rows of single documents, each worked out once for one configuration of parsing, chunking and encoding."""

    def __init__(self, config: Config) -> None:
        self.recipe = Recipe(config)
        self._config = config
        self._chunk = chunk_stage(config.chunking, config.lexical, config.encoder)
        self._parsed = cache(self._parse)
        self._rows = cache(self._rows_of)

    def readable(self, uri: str, content: bytes) -> bool:
        """Whether it can be parsed."""
        return self._parsed(uri, content) is not None

    def rows(self, source: str, uri: str, content: bytes, tenant: str, readers: Readers) -> dict[str, str]:
        """chunk_id to row_hash of a document that can be parsed."""
        return self._rows(source, uri, content, tenant, readers)

    def _parse(self, uri: str, content: bytes) -> tuple[str, list[dict[str, Any]]] | None:
        """Title and chunks; None for what cannot be parsed."""
        media_type = detect_media_type(content[:8_192], uri.rpartition("/")[2])
        try:
            parsed = parse(content, media_type, self._config.parsing)
        except ParseFailure:
            return None
        title = parsed.title or uri.rpartition("/")[2]
        if not parsed.elements:
            return title, []
        batch = pa.RecordBatch.from_pylist(
            [
                {
                    "content_hash": "",
                    "recipe_fp": "",
                    "title": parsed.title or "",
                    "elements": [asdict(element) for element in parsed.elements],
                }
            ],
            schema=pa.schema(
                [
                    pa.field("content_hash", pa.string()),
                    pa.field("recipe_fp", pa.string()),
                    ELEMENTS.field("title"),
                    ELEMENTS.field("elements"),
                ]
            ),
        )
        return title, [row for found in self._chunk(iter([batch])) for row in found.to_pylist()]

    def _rows_of(self, source: str, uri: str, content: bytes, tenant: str, readers: Readers) -> dict[str, str]:
        parsed = self._parsed(uri, content)
        assert parsed is not None
        title, chunks = parsed
        document = doc_id(source, uri)
        repeated: dict[str, int] = defaultdict(int)
        rows = {}
        for chunk in chunks:
            key = chunk_id(document, chunk["text_hash"], repeated[chunk["text_hash"]])
            repeated[chunk["text_hash"]] += 1
            fields = {
                "chunk_id": key,
                "doc_id": document,
                "source": source,
                "tenant": tenant,
                "classification": "internal",
                "acl_id": acl_id(tenant, readers),
                "uri": uri,
                "title": title,
                "heading_path": HEADING_SEPARATOR.join(chunk["heading_path"]),
                "pages": page_span(chunk["pages"]),
                "text": chunk["text"],
                "body_start": chunk["body_start"],
                "text_hash": chunk["text_hash"],
            }
            rows[key] = row_hash(fields, self.recipe.model_fp)
        return rows
