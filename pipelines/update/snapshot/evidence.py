"""What the gates and `verify` judge by: a slot read back and held against the tables, a portion of its rows at a time.

Nothing that grows with the index is kept: sums, counts, and the first rows of each kind of problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.identity import digest
from pipelines.index.rows import row_hashes
from pipelines.lake import dead_letters, manifest, snapshots
from pipelines.lake.derive import Progress
from pipelines.lake.memory import give_back
from pipelines.lake.portions import Portion
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.snapshot import vectors
from pipelines.update.snapshot.rows import ExpectedRows, portions, spanning

_KEPT = "evidence"
_SHOWN = 20  # rows of each kind of problem that are named
_DOCUMENTS = 1_000  # documents that are named
_DOCUMENTS_A_JOIN = 4_000
_INDEXED_TIMEOUT_SECONDS = 600.0

Problem = dict[str, object]


@dataclass(slots=True)
class Problems:
    """How many there are of one kind, the first of them, and the documents that they are in."""

    count: int = 0
    first: list[Problem] = field(default_factory=list)
    documents: set[str] = field(default_factory=set)

    def add(self, **problem: object) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(problem)
        if "uri" in problem and len(self.documents) < _DOCUMENTS:
            self.documents.add(str(problem["uri"]))

    def joined(self, other: Problems) -> Problems:
        """These and those."""
        documents = sorted(self.documents | other.documents)[:_DOCUMENTS]
        return Problems(self.count + other.count, [*self.first, *other.first][:_SHOWN], set(documents))


@dataclass(slots=True)
class Evidence:
    """One snapshot's slot and tables, for all its documents or for those that its build touched.

    Attributes:
        snapshot: which.
        touched: how many documents were looked at; None when all.
        documents: active ones among them.
        expected_rows: by the tables, with `expected_digest`.
        rows: read from the slot, with `digest` of what they hold, computed anew.
        rows_that_differ: missing, surplus, or holding something else.
        vectors_that_differ: not the same bits as in the tables.
        unusable_vectors: of the slot; not finite, of another dimension, or not of unit length.
        repeated: keys that are twice in the slot or in a table.
        unexplained: documents without rows, and nothing says why.
        without_text: documents without rows, because they hold none.
        over_budget: chunks longer than the encoder reads; `longest` is the longest of all.
    """

    snapshot: Snapshot
    touched: int | None = None
    documents: int = 0
    expected_rows: int = 0
    expected_digest: str = "0" * 64
    rows: int = 0
    digest: str = "0" * 64
    rows_that_differ: Problems = field(default_factory=Problems)
    vectors_that_differ: Problems = field(default_factory=Problems)
    unusable_vectors: Problems = field(default_factory=Problems)
    repeated: Problems = field(default_factory=Problems)
    unexplained: Problems = field(default_factory=Problems)
    without_text: int = 0
    over_budget: Problems = field(default_factory=Problems)
    longest: int = 0

    @property
    def scope(self) -> str:
        """What was looked at, in words."""
        return "all documents" if self.touched is None else f"{self.touched} changed documents"

    @property
    def differing_documents(self) -> list[str]:
        """Addresses of documents of which a row or a vector is not what the tables say, sorted."""
        return sorted(self.rows_that_differ.documents | self.vectors_that_differ.documents)


def gather(project: Project, snapshot_id: str) -> Evidence:
    """The evidence for a candidate, read once and kept with the project until another candidate is looked at."""
    kept = project.kept.get(_KEPT)
    if isinstance(kept, Evidence) and kept.snapshot.snapshot_id == snapshot_id:
        return kept
    snapshot = snapshots.find(snapshots.recent(project.lake, project.alias), snapshot_id)
    note = staging.read_note(project.home.staging, staging.CANDIDATE)
    touched = None
    if snapshot.kind == "incremental" and note.get("snapshot_id") == snapshot.snapshot_id:
        touched = note["touched"]
    # Rows that wait to be flushed are read ten times more slowly, and promotion waits for the flush anyway.
    project.index().wait_until_indexed(snapshot.collection, timeout_seconds=_INDEXED_TIMEOUT_SECONDS)
    found = compare(project, snapshot, touched)
    project.kept[_KEPT] = found
    return found


def compare(
    project: Project, snapshot: Snapshot, touched: Sequence[str] | None = None, *, progress: Progress | None = None
) -> Evidence:
    """Read a snapshot's slot back and hold every row and every vector against the tables.

    Args:
        project: whose index and tables.
        snapshot: whose slot; its own recipe, model and manifest version decide.
        touched: ids of the documents that are meant; None: all.
        progress: called with (rows read, rows in all).
    """
    found = Evidence(snapshot, None if touched is None else len(touched))
    letters = dead_letters.unresolved(project.lake)
    explained = set(zip(letters["source"].to_pylist(), letters["uri"].to_pylist(), strict=True))

    def look(documents: pa.Table, wanted: Iterable[Portion | Sequence[str]]) -> None:
        # A scope of its own: what it holds has gone before the next portion is read.
        expected = ExpectedRows(project, documents, snapshot=snapshot)
        _look_at_tables(project, found, documents, expected, explained)
        seen = np.zeros(len(expected), np.int64)
        for part in wanted:
            for rows in project.index().stored(snapshot.collection, part):
                _look_at_rows(found, expected, rows, seen)
                if progress:
                    progress(found.rows, max(found.rows, snapshot.rows))
        if not seen.all():
            uris = expected.uris()
            for position in np.flatnonzero(seen == 0).tolist():
                missing = expected.chunk_ids[position]
                found.rows_that_differ.add(problem="missing row", chunk_id=missing, uri=uris[position])

    for documents, wanted in _parts(project, snapshot, touched):
        give_back()  # as in a build
        look(documents, wanted)
    return found


def compare_vectors(project: Project, snapshot: Snapshot, *, progress: Progress | None = None) -> Evidence:
    """What can be said without the manifest: the digest of the rows, and dense vectors against table 'embeddings'."""
    found = Evidence(snapshot)
    where = pc.field("model_fp") == snapshot.model_fp
    for pages in portions(snapshot.rows):
        for page in pages:
            for rows in project.index().stored(snapshot.collection, page):
                found.rows += rows.num_rows
                found.digest = digest(row_hashes(rows, snapshot.model_fp), start=found.digest)
                known = project.lake.lookup("embeddings", rows["text_hash"], ["text_hash", "vector"], where=where)
                known = known.combine_chunks()
                at = pc.index_in(rows["text_hash"], value_set=known["text_hash"])
                for row in rows.filter(pc.is_null(at)).select(["chunk_id", "uri"]).to_pylist():
                    found.vectors_that_differ.add(problem="no such vector in table 'embeddings'", **row)
                rows = rows.filter(pc.is_valid(at))
                expected = known["vector"].take(at.drop_null())
                _add_differences(found, rows, vectors.dense_differences(rows, expected))
                if progress:
                    progress(found.rows, max(found.rows, snapshot.rows))
    return found


def _add_differences(found: Evidence, rows: pa.Table, differences: Iterable[vectors.VectorDifference]) -> None:
    for one in differences:
        found.vectors_that_differ.add(
            problem="vector differs",
            chunk_id=rows["chunk_id"][one.row].as_py(),
            uri=rows["uri"][one.row].as_py(),
            which=one.which,
            told=one.told,
        )


def _parts(
    project: Project, snapshot: Snapshot, touched: Sequence[str] | None
) -> Iterator[tuple[pa.Table, Sequence[Portion | Sequence[str]]]]:
    """The documents of one join, and how their rows are asked for."""
    lake, version = project.lake, snapshot.manifest_version
    if touched is None:
        for pages in portions(snapshot.rows):
            yield manifest.active_documents(lake, version, portion=spanning(pages)), pages
        return
    ids = sorted(touched)
    for start in range(0, len(ids), _DOCUMENTS_A_JOIN):
        some = ids[start : start + _DOCUMENTS_A_JOIN]
        yield manifest.active_documents(lake, version, doc_ids=some), [some]


def _look_at_rows(found: Evidence, expected: ExpectedRows, rows: pa.Table, seen: np.ndarray) -> None:
    """Hold some rows of the slot against what is expected; `seen` counts how often each expected row came."""
    computed = row_hashes(rows, found.snapshot.model_fp)
    found.rows += rows.num_rows
    found.digest = digest(computed, start=found.digest)
    ids, uris = rows["chunk_id"].to_pylist(), rows["uri"].to_pylist()
    at = pc.index_in(rows["chunk_id"], value_set=pa.array(expected.chunk_ids, pa.string()))
    for row, position in enumerate(at.to_pylist()):
        if position is None:
            found.rows_that_differ.add(problem="surplus row", chunk_id=ids[row], uri=uris[row])
            continue
        seen[position] += 1
        if seen[position] > 1:
            found.repeated.add(table="index", key=ids[row], uri=uris[row])
        if expected.row_hashes[position] != computed[row]:
            found.rows_that_differ.add(problem="row holds something else", chunk_id=ids[row], uri=uris[row])
    known = rows.filter(pc.is_valid(at))
    expected_vectors = expected.vectors(at.drop_null().cast(pa.int64()))
    _add_differences(found, known, vectors.differences(known, expected_vectors))
    for row, length, norm in vectors.unusable(rows["dense"], int(found.snapshot.model["encoder"]["dimension"])):
        found.unusable_vectors.add(chunk_id=ids[row], uri=uris[row], norm=norm, dimension=length)


def _look_at_tables(
    project: Project, found: Evidence, documents: pa.Table, expected: ExpectedRows, explained: set[tuple[str, str]]
) -> None:
    from pipelines.update.applying.parse import parse_results

    found.documents += documents.num_rows
    found.expected_rows += len(expected)
    found.expected_digest = digest(expected.row_hashes, start=found.expected_digest)
    chunks, texts = expected.table_keys()
    for table, keys in (("chunks", _repeated(chunks)), ("embeddings", _repeated(texts))):
        for key in keys:
            found.repeated.add(table=table, key=str(key))
    limit = project.recipe.max_tokens
    for text_hash, tokens in expected.tokens().items():
        found.longest = max(found.longest, tokens)
        if tokens > limit:
            found.over_budget.add(text_hash=text_hash, tokens=tokens)
    without = pa.array(expected.documents_without_rows(), pa.string())
    if len(without):
        documents = documents.filter(pc.is_in(documents["doc_id"], value_set=without))
        results = parse_results(project, documents)
        for row in documents.to_pylist():
            result = results.get((row["content_hash"], row["media_type"]))
            if result is not None and result["status"] == "empty":
                found.without_text += 1
            elif (row["source"], row["uri"]) not in explained:
                parsed = result["status"] if result else "no"
                found.unexplained.add(source=row["source"], uri=row["uri"], parsed=parsed)


def _repeated(keys: Iterable[Hashable]) -> list[Hashable]:
    return [key for key, count in Counter(keys).items() if count > 1]
