"""Encoding the distinct chunk texts of active documents that have no vector yet for today's model."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.embedding.stage import encode_stage
from pipelines.lake import dead_letters, manifest
from pipelines.lake.dead_letters import Failure
from pipelines.lake.derive import Progress, derive, missing
from pipelines.project import Project
from pipelines.update.applying import reach
from pipelines.update.deriving.chunks import chunks_wanted
from pipelines.update.reports import EncodeReport

_SORT_WINDOW = 16_384  # texts sorted by length at a time: keeps batches even and memory bounded
_SORT_BYTES = 32 * 1024 * 1024
_PORTION_SECONDS = 2.0  # worth a commit in any case
_EXACT_ROWS = 65_536  # as for chunks


def encode_chunks(project: Project, *, run_id: str, progress: Progress | None = None) -> EncodeReport:
    """Encode the distinct chunk texts of active documents that have no vector yet for today's model."""
    started = time.perf_counter()
    lake, recipe = project.lake, project.recipe
    looked, everything = reach.documents(project)
    wanted = _distinct_texts(project, looked)
    texts = wanted.append_column("model_fp", pa.array([recipe.model_fp] * wanted.num_rows, pa.string()))
    todo = missing(lake, "embeddings", texts, ["text_hash", "model_fp"])
    failures: tuple[Failure, ...] = ()
    encoded = 0
    if todo.num_rows:
        result = derive(
            lake,
            "embeddings",
            _texts_by_length(project, todo, None if everything else looked),
            encode_stage(project.config.encoder, texts=todo.num_rows),
            total=todo.num_rows,
            portion_rows=project.config.encoder.portion_rows,
            portion_seconds=_PORTION_SECONDS,
            run_id=run_id,
            progress=progress,
        )
        encoded = result.rows
        failures = _encode_failures(project, result.rejected, looked)
        lake.order("embeddings", run_id=run_id)
    total = _total(project, wanted, everything=everything)
    letters = dead_letters.open_letters(lake)
    stale = letters.filter(pc.equal(letters["stage"], "encode"))
    if failures or stale.num_rows:
        healed = set(zip(stale["source"].to_pylist(), stale["uri"].to_pylist(), strict=True))
        healed -= {(failure.source, failure.uri) for failure in failures}
        dead_letters.record(lake, failures, healthy=healed, run_id=run_id)
    reach.end(project)
    return EncodeReport(
        encoded=encoded,
        reused=total - todo.num_rows,
        total=total,
        failures=failures,
        model_fp=recipe.model_fp,
        table_version=lake.version("embeddings"),
        seconds=time.perf_counter() - started,
    )


def _distinct_texts(project: Project, documents: pa.Table) -> pa.Table:
    """Hash and tokens of each distinct text of those documents."""
    found = pa.concat_tables(chunks_wanted(project, documents))
    return found.group_by("text_hash").aggregate([("tokens", "max")]).rename_columns(["text_hash", "tokens"])


def _total(project: Project, wanted: pa.Table, *, everything: bool) -> int:
    if everything:
        return len(wanted)
    if project.lake.count("chunks") > _EXACT_ROWS:
        return project.lake.count("embeddings")
    return len(_distinct_texts(project, manifest.active_documents(project.lake, columns=reach.COLUMNS)))


def _texts_by_length(project: Project, todo: pa.Table, documents: pa.Table | None) -> Iterator[pa.RecordBatch]:
    """Inputs of the encode stage, a window at a time sorted by length, so that batches hold texts of one length.

    Args:
        project: whose table of chunks is read.
        todo: the texts.
        documents: which have all of them; None: all documents.
    """
    columns, texts = ["text_hash", "text", "tokens"], pc.unique(todo["text_hash"])
    wanted = pc.field("text_hash").isin(texts)
    if documents is None:
        stored = project.lake.scan("chunks", columns, where=wanted)
    else:
        stored = project.lake.lookup_batches("chunks", documents["content_hash"], columns, where=wanted)
    waiting = set(texts.to_pylist())
    window: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in stored:
        fresh = []
        for row, key in enumerate(batch["text_hash"].to_pylist()):
            if key in waiting:
                waiting.remove(key)
                fresh.append(row)
        if fresh:
            window.append(batch.take(pa.array(fresh, pa.int64())))
            rows += len(fresh)
            size += window[-1].nbytes
        if rows >= _SORT_WINDOW or size >= _SORT_BYTES:
            yield from _sorted(window)
            window, rows, size = [], 0, 0
    yield from _sorted(window)


def _sorted(window: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if window:
        table = pa.Table.from_batches(window).sort_by([("tokens", "descending")])
        yield from table.select(["text_hash", "text"]).combine_chunks().to_batches(max_chunksize=512)


def _encode_failures(project: Project, rejected: pa.Table, documents: pa.Table) -> tuple[Failure, ...]:
    """The documents to which texts without a vector belong."""
    if rejected.num_rows == 0:
        return ()
    errors = dict(zip(rejected["text_hash"].to_pylist(), rejected["error"].to_pylist(), strict=True))
    without = pc.field("text_hash").isin(pa.array(list(errors), pa.string()))
    by_content = {
        row["content_hash"]: row
        for batch in project.lake.scan("chunks", ["content_hash", "text_hash", "ordinal"], where=without)
        for row in batch.to_pylist()
    }
    affected = pc.is_in(documents["content_hash"], value_set=pa.array(list(by_content), pa.string()))
    failures = []
    for row in documents.filter(affected).select(["source", "uri", "content_hash"]).to_pylist():
        chunk = by_content[row["content_hash"]]
        failures.append(
            Failure(
                source=row["source"],
                uri=row["uri"],
                stage="encode",
                error_class="EncodeError",
                error=f"chunk {chunk['ordinal']}: {errors[chunk['text_hash']]}",
                content_hash=row["content_hash"],
            )
        )
    return tuple(failures)
