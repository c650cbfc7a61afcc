"""Chunking as a stage over Arrow batches: parsed documents in, rows of the table `chunks` out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import NamedTuple

import pyarrow as pa

from pipelines.chunking.chunker import Chunk, Chunker
from pipelines.config import ChunkingConfig, EncoderConfig, LexicalConfig
from pipelines.embedding.tokenizer import Tokenizer, load_tokenizer
from pipelines.identity import text_hash
from pipelines.lake.schemas import CHUNKS
from pipelines.lexical import document_vectors

_ROWS = 2_048  # chunks a yielded batch, at least: about 5 MB
_DOCUMENTS = 256  # documents whose words are looked up together

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


class _Element(NamedTuple):
    kind: str
    text: str
    level: int | None
    page: int | None


class _Row(NamedTuple):
    content_hash: str
    recipe_fp: str
    ordinal: int
    chunk_count: int
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class ChunkStage:
    """Picklable; the tokenizer is read where the stage runs."""

    chunking: ChunkingConfig
    lexical: LexicalConfig
    encoder: EncoderConfig
    _rows: int = field(default=_ROWS, kw_only=True)

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Chunks of each batch's documents, in their order; all chunks of a document lie in one batch."""
        tokenizer = load_tokenizer(self.encoder)
        chunker = Chunker(self.chunking, tokenizer)
        waiting: list[_Row] = []
        for batch in batches:
            for at in range(0, batch.num_rows, _DOCUMENTS):
                for row in _chunked(batch.slice(at, _DOCUMENTS), chunker, tokenizer):
                    waiting.append(row)
                    whole = row.ordinal + 1 == row.chunk_count
                    if whole and len(waiting) >= self._rows:
                        yield _batch(waiting, self.lexical)
                        waiting = []
        if waiting:
            yield _batch(waiting, self.lexical)


def chunk_stage(config: ChunkingConfig, lexical: LexicalConfig, encoder: EncoderConfig) -> Stage:
    """The stage that turns parsed documents into chunks.

    Input columns: content_hash, recipe_fp, title, elements. Output: the columns of `schemas.CHUNKS`. A document with
    any visible text has at least one chunk; one without has none.
    """
    return ChunkStage(config, lexical, encoder)


def _chunked(batch: pa.RecordBatch, chunker: Chunker, tokenizer: Tokenizer) -> Iterator[_Row]:
    columns = [batch.column(name).to_pylist() for name in ("content_hash", "recipe_fp", "title")]
    documents = _elements(batch.column("elements"))
    titles = [title or "" for title in columns[2]]
    tokenizer.learn(chain(titles, (element.text for elements in documents for element in elements)))
    for content, recipe, title, elements in zip(*columns, documents, strict=True):
        chunks = chunker.chunks(title or "", elements)
        for ordinal, chunk in enumerate(chunks):
            yield _Row(content, recipe, ordinal, len(chunks), chunk)


def _elements(column: pa.ListArray) -> list[list[_Element]]:
    """The elements of each document, without building a dictionary for every one."""
    flat = column.flatten()
    fields = [flat.field(name).to_pylist() for name in _Element._fields]
    elements = list(map(_Element, *fields))
    ends = [0]
    for length in column.value_lengths().to_pylist():
        ends.append(ends[-1] + (length or 0))
    return [elements[a:b] for a, b in pairwise(ends)]


def _batch(rows: Sequence[_Row], lexical: LexicalConfig) -> pa.RecordBatch:
    chunks = [row.chunk for row in rows]
    offsets, terms, weights = document_vectors([chunk.text for chunk in chunks], lexical)
    columns: dict[str, object] = {
        "content_hash": [row.content_hash for row in rows],
        "recipe_fp": [row.recipe_fp for row in rows],
        "ordinal": [row.ordinal for row in rows],
        "chunk_count": [row.chunk_count for row in rows],
        "text": [chunk.text for chunk in chunks],
        "text_hash": [text_hash(chunk.text) for chunk in chunks],
        "body_start": [chunk.body_start for chunk in chunks],
        "kind": [chunk.kind for chunk in chunks],
        "heading_path": [chunk.heading_path for chunk in chunks],
        "section": [chunk.section for chunk in chunks],
        "char_start": [chunk.char_start for chunk in chunks],
        "char_end": [chunk.char_end for chunk in chunks],
        "pages": [chunk.pages for chunk in chunks],
        "tokens": [chunk.tokens for chunk in chunks],
        "terms": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(terms, pa.int64())),
        "weights": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(weights, pa.float32())),
    }
    arrays = [
        columns[f.name] if isinstance(columns[f.name], pa.Array) else pa.array(columns[f.name], f.type) for f in CHUNKS
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=CHUNKS)
