"""The rows that the index should hold for given documents: manifest x chunks x embeddings, a pure join.

The same join says what an update must write, what a rebuild must write, and what `verify` expects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import IndexMismatch
from pipelines.identity import chunk_id
from pipelines.index.rows import INDEX_ROW, SCALAR_ROW, row_hashes
from pipelines.project import Project

HEADING_SEPARATOR = " > "
_PORTION_ROWS = 4_096
_FROM_DOCUMENT = ("doc_id", "source", "tenant", "classification", "acl_id", "uri", "title")
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


class ExpectedRows:
    """The rows that some documents should have in an index of one model.

    Chunks are held in memory (about 1.5 KB a row); vectors are read when `tables` asks for them. A chunk whose text
    has no vector (it failed to encode, see the dead letters) has no row.

    Attributes:
        doc_ids: document of each row.
        chunk_ids: identity of each row.
        row_hashes: hash of each row.
    """

    def __init__(self, project: Project, documents: pa.Table, *, model_fp: str | None = None) -> None:
        self._lake = project.lake
        self._model_fp = model_fp or project.recipe.model_fp
        self._documents = documents.combine_chunks()
        keyed = project.recipe.keyed(documents)
        self._keys = list(zip(keyed["content_hash"].to_pylist(), keyed["recipe_fp"].to_pylist(), strict=True))
        self._chunks = self._read_chunks()
        self._encoded_rows = self._lake.read("embeddings", ["text_hash"], where=self._encoded())
        self._all_vectors: pa.Table | None = None
        chunk_rows, document_rows, self.chunk_ids = self._join()
        self._chunk_rows = pa.array(chunk_rows, pa.int64())
        self._document_rows = pa.array(document_rows, pa.int64())
        self.doc_ids: list[str] = self._documents["doc_id"].take(self._document_rows).to_pylist()
        self.row_hashes = [
            value for rows in self._portions(range(len(self.chunk_ids))) for value in self._hash_portion(rows)
        ]

    def __len__(self) -> int:
        return len(self.chunk_ids)

    def hashes(self) -> dict[str, str]:
        """chunk_id to row_hash."""
        return dict(zip(self.chunk_ids, self.row_hashes, strict=True))

    def terms(self) -> dict[str, pa.ChunkedArray]:
        """The lexical terms of every row, by the tenant whose row it is."""
        terms = self._chunks["terms"].take(self._chunk_rows)
        tenants = self._documents["tenant"].take(self._document_rows)
        return {one: terms.filter(pc.equal(tenants, one)) for one in sorted(tenants.unique().to_pylist())}

    def tokens(self) -> dict[str, int]:
        """Tokens of each distinct chunk text."""
        return dict(zip(self._chunks["text_hash"].to_pylist(), self._chunks["tokens"].to_pylist(), strict=True))

    def table_keys(self) -> tuple[list[tuple[object, ...]], list[str]]:
        """The keys of the rows in tables 'chunks' and 'embeddings' that these rows are made from."""
        columns = [self._chunks[name].to_pylist() for name in ("content_hash", "recipe_fp", "ordinal")]
        return list(zip(*columns, strict=True)), self._encoded_rows["text_hash"].to_pylist()

    def vector_batches(self) -> Iterator[pa.RecordBatch]:
        """text_hash and vector of every distinct text, streamed from the table."""
        yield from self._lake.scan("embeddings", ["text_hash", "vector"], where=self._encoded())

    def documents_without_rows(self) -> list[str]:
        """doc_ids that have no row, sorted."""
        return sorted(set(self._documents["doc_id"].to_pylist()) - set(self.doc_ids))

    def tables(self, rows: Sequence[int] | None = None) -> Iterator[pa.Table]:
        """Complete index rows with vectors, some thousands at a time: all, or those at the given positions.

        Raises:
            IndexMismatch: a vector vanished from the tables since the rows were computed.
        """
        for portion in self._portions(range(len(self)) if rows is None else rows):
            positions = pa.array(portion, pa.int64())
            chunks = self._chunks.select(["text_hash", "terms", "weights"]).take(self._chunk_rows.take(positions))
            yield (
                self._scalars(positions)
                .append_column("row_hash", pa.array([self.row_hashes[i] for i in portion], pa.string()))
                .append_column("dense", self._vectors(chunks["text_hash"]))
                .append_column("terms", chunks["terms"])
                .append_column("weights", chunks["weights"])
                .select(INDEX_ROW.names)
                .cast(INDEX_ROW)
            )

    # --- internals ---

    def _read_chunks(self) -> pa.Table:
        wanted = set(self._keys)
        contents = pa.array(sorted({content for content, _ in wanted}), pa.string())
        chunks = self._lake.read("chunks", _CHUNK_COLUMNS, where=pc.field("content_hash").isin(contents))
        found = zip(chunks["content_hash"].to_pylist(), chunks["recipe_fp"].to_pylist(), strict=True)
        chunks = chunks.filter(pa.array([key in wanted for key in found], pa.bool_()))
        keys = [(name, "ascending") for name in ("content_hash", "recipe_fp", "ordinal")]
        return chunks.take(pc.sort_indices(chunks.select([name for name, _ in keys]), sort_keys=keys))

    def _encoded(self) -> pc.Expression:
        hashes = pc.unique(self._chunks["text_hash"])
        return (pc.field("model_fp") == self._model_fp) & pc.field("text_hash").isin(hashes)

    def _join(self) -> tuple[list[int], list[int], list[str]]:
        """Of each row its chunk, its document, and its identity."""
        by_key: dict[tuple[str, str], list[int]] = defaultdict(list)
        columns = (self._chunks["content_hash"].to_pylist(), self._chunks["recipe_fp"].to_pylist())
        for position, key in enumerate(zip(*columns, strict=True)):
            by_key[key].append(position)
        hashes = self._chunks["text_hash"].to_pylist()
        encoded = set(self._encoded_rows["text_hash"].to_pylist())
        chunk_rows: list[int] = []
        document_rows: list[int] = []
        identities: list[str] = []
        for row, (doc_id, key) in enumerate(zip(self._documents["doc_id"].to_pylist(), self._keys, strict=True)):
            occurrences: dict[str, int] = defaultdict(int)
            for position in by_key.get(key, ()):
                text = hashes[position]
                if text in encoded:
                    chunk_rows.append(position)
                    document_rows.append(row)
                    identities.append(chunk_id(doc_id, text, occurrences[text]))
                    occurrences[text] += 1
        return chunk_rows, document_rows, identities

    def _portions(self, rows: Sequence[int]) -> Iterator[Sequence[int]]:
        for start in range(0, len(rows), _PORTION_ROWS):
            yield rows[start : start + _PORTION_ROWS]

    def _hash_portion(self, rows: Sequence[int]) -> list[str]:
        return row_hashes(self._scalars(pa.array(rows, pa.int64())), self._model_fp)

    def _scalars(self, positions: pa.Array) -> pa.Table:
        """The stored fields of some rows, without hash and vectors."""
        chunks = self._chunks.take(self._chunk_rows.take(positions))
        documents = self._documents.select(list(_FROM_DOCUMENT)).take(self._document_rows.take(positions))
        table = pa.table(
            {
                **{name: documents[name] for name in _FROM_DOCUMENT},
                "chunk_id": pa.array([self.chunk_ids[i] for i in positions.to_pylist()], pa.string()),
                "heading_path": pc.binary_join(chunks["heading_path"], HEADING_SEPARATOR),
                "pages": pa.array([page_span(pages) for pages in chunks["pages"].to_pylist()], pa.string()),
                "text": chunks["text"],
                "body_start": chunks["body_start"],
                "text_hash": chunks["text_hash"],
            }
        )
        fields = [field for field in SCALAR_ROW if field.name != "row_hash"]
        return table.select([field.name for field in fields]).cast(pa.schema(fields))

    def _vectors(self, hashes: pa.ChunkedArray) -> pa.ChunkedArray:
        known = self._vector_table(hashes)
        positions = pc.index_in(hashes, value_set=known["text_hash"].combine_chunks())
        if positions.null_count:
            raise IndexMismatch(
                f"{positions.null_count} vectors are no longer in table 'embeddings'; run the update again"
            )
        return known["vector"].take(positions)

    def _vector_table(self, hashes: pa.ChunkedArray) -> pa.Table:
        """Vectors of these texts; of all rows at once when there are many, so that the table is read once."""
        if self._all_vectors is not None:
            return self._all_vectors
        if len(self) > _PORTION_ROWS:
            self._all_vectors = self._lake.read("embeddings", ["text_hash", "vector"], where=self._encoded())
            return self._all_vectors
        where = (pc.field("model_fp") == self._model_fp) & pc.field("text_hash").isin(pc.unique(hashes))
        return self._lake.read("embeddings", ["text_hash", "vector"], where=where)


def page_span(pages: list[int]) -> str:
    """Pages as a reader cites them: "", "3" or "3-4"."""
    if not pages:
        return ""
    first, last = min(pages), max(pages)
    return str(first) if first == last else f"{first}-{last}"
