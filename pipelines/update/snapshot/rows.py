"""The rows that the index should hold for given documents: manifest x chunks x embeddings, a pure join.

The same join says what an update must write, what a rebuild must write, and what `verify` expects. It is made for a
portion of the documents at a time, so that memory does not grow with the index.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.identity import chunk_id
from pipelines.index.rows import INDEX_ROW, SCALAR_ROW, row_hashes
from pipelines.lake.portions import Portion
from pipelines.lake.portions import portions as parts_of_key
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project

HEADING_SEPARATOR = " > "
_PORTION_ROWS = 4_096
_PORTIONS_A_JOIN = 8  # each join passes over the tables once: 32,000 rows are about 150 MB at 384 dimensions
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


def portions(rows: int) -> list[list[Portion]]:
    """Ranges of document ids that cover them all: joins of about 32,000 rows, each in parts of some thousand."""
    pages = parts_of_key(rows, rows_each=_PORTION_ROWS)
    return [list(pages[start : start + _PORTIONS_A_JOIN]) for start in range(0, len(pages), _PORTIONS_A_JOIN)]


def spanning(pages: Sequence[Portion]) -> Portion:
    """One range for neighbouring ones."""
    return Portion(pages[0].start, pages[-1].stop)


class ExpectedRows:
    """The rows that some documents should have in an index of one recipe and model.

    Everything is held in memory, vectors too (about 2.5 KB a row and 4 bytes a number of a vector): many documents
    are taken a portion at a time, see `portions`. A chunk whose text has no vector (it failed to encode, see the dead
    letters) has no row.

    Attributes:
        doc_ids: document of each row.
        chunk_ids: identity of each row.
        row_hashes: hash of each row.
    """

    def __init__(self, project: Project, documents: pa.Table, *, snapshot: Snapshot | None = None) -> None:
        """Join them.

        Args:
            project: whose tables.
            documents: with all columns of the manifest.
            snapshot: whose recipe and model decide; None: today's.
        """
        self._lake = project.lake
        self._model_fp = snapshot.model_fp if snapshot else project.recipe.model_fp
        self._documents = documents.combine_chunks()
        recipes = snapshot.recipes if snapshot else None
        media_types = documents["media_type"].to_pylist()
        chunk_fps = [recipes.get(m, "") if recipes is not None else project.recipe.chunk_fp(m) for m in media_types]
        self._keys = list(zip(documents["content_hash"].to_pylist(), chunk_fps, strict=True))
        self._chunks = self._read_chunks()
        self._vectors = self._lake.lookup(
            "embeddings",
            self._chunks["text_hash"],
            ["text_hash", "vector"],
            where=pc.field("model_fp") == self._model_fp,
        ).combine_chunks()
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
        return list(zip(*columns, strict=True)), self._vectors["text_hash"].to_pylist()

    def uris(self) -> list[str]:
        """The document's address of each row."""
        found: list[str] = self._documents["uri"].take(self._document_rows).to_pylist()
        return found

    def vectors(self, positions: pa.Array) -> pa.Table:
        """What the rows at these positions are searched by: `dense`, `terms` and `weights`."""
        chunks = self._chunks.select(["text_hash", "terms", "weights"]).take(self._chunk_rows.take(positions))
        dense = self._vectors["vector"].take(pc.index_in(chunks["text_hash"], value_set=self._vectors["text_hash"]))
        return pa.table({"dense": dense, "terms": chunks["terms"], "weights": chunks["weights"]})

    def documents_without_rows(self) -> list[str]:
        """doc_ids that have no row, sorted."""
        return sorted(set(self._documents["doc_id"].to_pylist()) - set(self.doc_ids))

    def tables(self, rows: Sequence[int] | None = None) -> Iterator[pa.Table]:
        """Complete index rows with vectors, some thousands at a time: all, or those at the given positions."""
        for portion in self._portions(range(len(self)) if rows is None else rows):
            positions = pa.array(portion, pa.int64())
            hashes = pa.array([self.row_hashes[i] for i in portion], pa.string())
            table = self._scalars(positions).append_column("row_hash", hashes)
            vectors = self.vectors(positions)
            for name in vectors.schema.names:
                table = table.append_column(name, vectors[name])
            yield table.select(INDEX_ROW.names).cast(INDEX_ROW)

    # --- internals ---

    def _read_chunks(self) -> pa.Table:
        wanted = set(self._keys)
        chunks = self._lake.lookup("chunks", {content for content, _ in wanted}, _CHUNK_COLUMNS)
        found = zip(chunks["content_hash"].to_pylist(), chunks["recipe_fp"].to_pylist(), strict=True)
        chunks = chunks.filter(pa.array([key in wanted for key in found], pa.bool_()))
        keys = [(name, "ascending") for name in ("content_hash", "recipe_fp", "ordinal")]
        return chunks.take(pc.sort_indices(chunks.select([name for name, _ in keys]), sort_keys=keys))

    def _join(self) -> tuple[list[int], list[int], list[str]]:
        """Of each row its chunk, its document, and its identity."""
        by_key: dict[tuple[str, str], list[int]] = defaultdict(list)
        columns = (self._chunks["content_hash"].to_pylist(), self._chunks["recipe_fp"].to_pylist())
        for position, key in enumerate(zip(*columns, strict=True)):
            by_key[key].append(position)
        hashes = self._chunks["text_hash"].to_pylist()
        encoded = set(self._vectors["text_hash"].to_pylist())
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


def page_span(pages: list[int]) -> str:
    """Pages as a reader cites them: "", "3" or "3-4"."""
    if not pages:
        return ""
    first, last = min(pages), max(pages)
    return str(first) if first == last else f"{first}-{last}"
