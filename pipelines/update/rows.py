"""The rows that the index should hold for given documents: manifest x chunks x embeddings, a pure join.

The same function says what an update must write, what a rebuild must write, and what `verify` expects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import IndexMismatch
from pipelines.identity import chunk_id
from pipelines.index.rows import INDEX_ROW, row_hash
from pipelines.update.project import Project

_PORTION_DOCUMENTS = 1_000
_PORTION_ROWS = 4_096
_FROM_DOCUMENT = ("doc_id", "source", "tenant", "classification", "acl_id", "uri", "title")
HEADING_SEPARATOR = " > "

_CHUNK_COLUMNS = [
    "content_hash",
    "recipe_fp",
    "ordinal",
    "text",
    "text_hash",
    "body_start",
    "heading_path",
    "pages",
    "tokens",
    "terms",
    "weights",
]


@dataclass(frozen=True, slots=True)
class ExpectedRow:
    """One index row without its text and vectors: enough to compare and to count."""

    doc_id: str
    chunk_id: str
    row_hash: str
    chunk: int  # row in the chunks held by its `ExpectedRows`
    document: int  # row in the documents held by its `ExpectedRows`


class ExpectedRows:
    """The rows that some documents should have in an index of one model.

    Chunks are held in memory without vectors (about 1.5 KB a row); vectors are read for the rows that `tables` is
    asked for. A chunk whose text has no vector (it failed to encode, see the dead letters) has no row.
    """

    def __init__(self, project: Project, documents: pa.Table, *, model_fp: str | None = None) -> None:
        self._project = project
        self._model_fp = model_fp or project.recipe.model_fp
        self._documents = documents.combine_chunks()
        self._keyed = project.recipe.keyed(documents)
        self._chunks = self._read_chunks()
        self._encoded_rows = project.lake.read("embeddings", ["text_hash"], where=self._encoded_where())
        self._encoded = set(self._encoded_rows["text_hash"].to_pylist())
        self._all_vectors: pa.Table | None = None
        self.rows: list[ExpectedRow] = list(self._compute())

    def hashes(self) -> dict[str, str]:
        """chunk_id to row_hash."""
        return {row.chunk_id: row.row_hash for row in self.rows}

    def terms(self) -> pa.ChunkedArray:
        """The lexical terms of every row."""
        column: pa.ChunkedArray = self._chunks["terms"]
        return column.take(pa.array([row.chunk for row in self.rows], pa.int64()))

    def tokens(self) -> dict[str, int]:
        """Tokens of each distinct chunk text."""
        return dict(zip(self._chunks["text_hash"].to_pylist(), self._chunks["tokens"].to_pylist(), strict=True))

    def table_keys(self) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
        """The keys of the rows in tables 'chunks' and 'embeddings' that these rows are made from."""
        names = ["content_hash", "recipe_fp", "ordinal"]
        columns = [self._chunks[name].to_pylist() for name in names]
        return list(zip(*columns, strict=True)), [(key,) for key in self._encoded_rows["text_hash"].to_pylist()]

    def vector_batches(self) -> Iterator[pa.RecordBatch]:
        """text_hash and vector of every distinct text, streamed from the table."""
        yield from self._project.lake.scan("embeddings", ["text_hash", "vector"], where=self._encoded_where())

    def documents_without_rows(self) -> list[str]:
        """doc_ids that have no row, sorted."""
        return sorted(set(self._documents["doc_id"].to_pylist()) - {row.doc_id for row in self.rows})

    def tables(self, rows: list[ExpectedRow] | None = None) -> Iterator[pa.Table]:
        """Complete index rows with vectors, some thousands at a time, for all rows or the given ones.

        Raises:
            IndexMismatch: a vector vanished from the tables since the rows were computed.
        """
        rows = self.rows if rows is None else rows
        for start in range(0, len(rows), _PORTION_ROWS):
            yield self._table(rows[start : start + _PORTION_ROWS])

    # --- internals ---

    def _read_chunks(self) -> pa.Table:
        contents = pc.unique(self._keyed["content_hash"])
        keys = set(zip(self._keyed["content_hash"].to_pylist(), self._keyed["recipe_fp"].to_pylist(), strict=True))
        where = pc.field("content_hash").isin(contents)
        chunks = self._project.lake.read("chunks", _CHUNK_COLUMNS, where=where)
        found = zip(chunks["content_hash"].to_pylist(), chunks["recipe_fp"].to_pylist(), strict=True)
        chunks = chunks.filter(pa.array([key in keys for key in found], pa.bool_()))
        order = pc.sort_indices(
            chunks.select(["content_hash", "recipe_fp", "ordinal"]),
            sort_keys=[("content_hash", "ascending"), ("recipe_fp", "ascending"), ("ordinal", "ascending")],
        )
        return chunks.take(order)

    def _encoded_where(self) -> pc.Expression:
        hashes = pc.unique(self._chunks["text_hash"])
        return (pc.field("model_fp") == self._model_fp) & pc.field("text_hash").isin(hashes)

    def _compute(self) -> Iterator[ExpectedRow]:
        by_key: dict[tuple[str, str], list[int]] = defaultdict(list)
        chunk_keys = zip(self._chunks["content_hash"].to_pylist(), self._chunks["recipe_fp"].to_pylist(), strict=True)
        for position, key in enumerate(chunk_keys):
            by_key[key].append(position)
        texts = self._chunks["text"]
        text_hashes = self._chunks["text_hash"].to_pylist()
        headings = self._chunks["heading_path"]
        pages = self._chunks["pages"]
        starts = self._chunks["body_start"].to_pylist()
        doc_keys = list(zip(self._keyed["content_hash"].to_pylist(), self._keyed["recipe_fp"].to_pylist(), strict=True))
        for portion in range(0, self._documents.num_rows, _PORTION_DOCUMENTS):
            for offset, document in enumerate(self._documents.slice(portion, _PORTION_DOCUMENTS).to_pylist()):
                occurrences: dict[str, int] = defaultdict(int)
                for position in by_key.get(doc_keys[portion + offset], ()):
                    key = text_hashes[position]
                    if key not in self._encoded:
                        continue
                    identity = chunk_id(document["doc_id"], key, occurrences[key])
                    occurrences[key] += 1
                    fields = _fields(
                        document,
                        identity,
                        text=texts[position].as_py(),
                        text_hash=key,
                        heading_path=headings[position].as_py(),
                        pages=pages[position].as_py(),
                        body_start=starts[position],
                    )
                    yield ExpectedRow(
                        document["doc_id"], identity, row_hash(fields, self._model_fp), position, portion + offset
                    )

    def _table(self, rows: list[ExpectedRow]) -> pa.Table:
        chunks = self._chunks.take(pa.array([row.chunk for row in rows], pa.int64()))
        documents = self._documents.take(pa.array([row.document for row in rows], pa.int64()))
        copied = {name: documents[name] for name in _FROM_DOCUMENT}
        return (
            pa.table(
                {
                    **copied,
                    "chunk_id": pa.array([row.chunk_id for row in rows], pa.string()),
                    "row_hash": pa.array([row.row_hash for row in rows], pa.string()),
                    "heading_path": pc.binary_join(chunks["heading_path"], HEADING_SEPARATOR),
                    "pages": pa.array([page_span(pages) for pages in chunks["pages"].to_pylist()], pa.string()),
                    "text": chunks["text"],
                    "body_start": chunks["body_start"],
                    "text_hash": chunks["text_hash"],
                    "dense": self._vectors(chunks["text_hash"]),
                    "terms": chunks["terms"],
                    "weights": chunks["weights"],
                }
            )
            .select(INDEX_ROW.names)
            .cast(INDEX_ROW)
        )

    def _vectors(self, hashes: pa.ChunkedArray) -> pa.ChunkedArray:
        known = self._vector_table(hashes)
        positions = pc.index_in(hashes, value_set=known["text_hash"])
        if positions.null_count:
            raise IndexMismatch(
                f"{positions.null_count} vectors are no longer in table 'embeddings'; run the update again"
            )
        return known["vector"].take(positions)

    def _vector_table(self, hashes: pa.ChunkedArray) -> pa.Table:
        """Vectors of these texts; of all rows at once when there are many, so that the table is read once."""
        if self._all_vectors is not None:
            return self._all_vectors
        many = len(self.rows) > _PORTION_ROWS
        wanted = pc.unique(self._chunks["text_hash"] if many else hashes)
        where = (pc.field("model_fp") == self._model_fp) & pc.field("text_hash").isin(wanted)
        table = self._project.lake.read("embeddings", ["text_hash", "vector"], where=where)
        if many:
            self._all_vectors = table
        return table


def _fields(
    document: dict[str, object],
    identity: str,
    *,
    text: str,
    text_hash: str,
    heading_path: list[str],
    pages: list[int],
    body_start: int,
) -> dict[str, object]:
    """The scalar fields of one index row, but its hash."""
    return {
        **{name: document[name] for name in _FROM_DOCUMENT},
        "chunk_id": identity,
        "heading_path": HEADING_SEPARATOR.join(heading_path),
        "pages": page_span(pages),
        "text": text,
        "body_start": body_start,
        "text_hash": text_hash,
    }


def page_span(pages: list[int]) -> str:
    """Pages as a reader cites them: "", "3" or "3-4"."""
    if not pages:
        return ""
    first, last = min(pages), max(pages)
    return str(first) if first == last else f"{first}-{last}"
