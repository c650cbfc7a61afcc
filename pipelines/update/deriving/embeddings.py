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
from pipelines.update.deriving.chunks import chunks_wanted
from pipelines.update.reports import EncodeReport

_SORT_WINDOW = 65_536  # texts sorted by length at a time: keeps batches even and memory bounded


def encode_chunks(project: Project, *, run_id: str, progress: Progress | None = None) -> EncodeReport:
    """Encode the distinct chunk texts of active documents that have no vector yet for today's model."""
    started = time.perf_counter()
    lake, recipe = project.lake, project.recipe
    wanted = chunks_wanted(project, manifest.active_documents(lake))
    texts = wanted.append_column("model_fp", pa.array([recipe.model_fp] * wanted.num_rows, pa.string()))
    todo = missing(lake, "embeddings", texts, ["text_hash", "model_fp"])
    total = len(pc.unique(wanted["text_hash"]))
    failures: tuple[Failure, ...] = ()
    encoded = 0
    if todo.num_rows:
        result = derive(
            lake,
            "embeddings",
            _texts_by_length(project, todo),
            encode_stage(project.config.encoder),
            total=todo.num_rows,
            portion_rows=project.config.encoder.portion_rows,
            run_id=run_id,
            progress=progress,
        )
        encoded = result.rows
        failures = _encode_failures(project, result.rejected)
    letters = dead_letters.open_letters(lake)
    stale = letters.filter(pc.equal(letters["stage"], "encode"))
    if failures or stale.num_rows:
        healed = set(zip(stale["source"].to_pylist(), stale["uri"].to_pylist(), strict=True))
        healed -= {(failure.source, failure.uri) for failure in failures}
        dead_letters.record(lake, failures, healthy=healed, run_id=run_id)
    return EncodeReport(
        encoded=encoded,
        reused=total - todo.num_rows,
        total=total,
        failures=failures,
        model_fp=recipe.model_fp,
        table_version=lake.version("embeddings"),
        seconds=time.perf_counter() - started,
    )


def _texts_by_length(project: Project, todo: pa.Table) -> Iterator[pa.RecordBatch]:
    """Inputs of the encode stage, a window at a time sorted by length, so that batches hold texts of one length."""
    waiting = set(todo["text_hash"].to_pylist())
    window: list[pa.RecordBatch] = []
    rows = 0
    for batch in project.lake.scan(
        "chunks", ["text_hash", "text", "tokens"], where=pc.field("text_hash").isin(todo["text_hash"])
    ):
        fresh = []
        for row, key in enumerate(batch["text_hash"].to_pylist()):
            if key in waiting:
                waiting.remove(key)
                fresh.append(row)
        if fresh:
            window.append(batch.take(pa.array(fresh, pa.int64())))
            rows += len(fresh)
        if rows >= _SORT_WINDOW:
            yield from _sorted(window)
            window, rows = [], 0
    yield from _sorted(window)


def _sorted(window: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if window:
        table = pa.Table.from_batches(window).sort_by([("tokens", "descending")])
        yield from table.select(["text_hash", "text"]).combine_chunks().to_batches(max_chunksize=512)


def _encode_failures(project: Project, rejected: pa.Table) -> tuple[Failure, ...]:
    """The documents to which texts without a vector belong."""
    if rejected.num_rows == 0:
        return ()
    errors = dict(zip(rejected["text_hash"].to_pylist(), rejected["error"].to_pylist(), strict=True))
    chunks = project.lake.read(
        "chunks",
        ["content_hash", "text_hash", "ordinal"],
        where=pc.field("text_hash").isin(pa.array(list(errors), pa.string())),
    )
    by_content = {row["content_hash"]: row for row in chunks.to_pylist()}
    failures = []
    for row in manifest.active_documents(project.lake).select(["source", "uri", "content_hash"]).to_pylist():
        chunk = by_content.get(row["content_hash"])
        if chunk is not None:
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
