"""Chunking the contents of active documents that have no chunks yet for today's recipe."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.chunking.stage import chunk_stage
from pipelines.lake import manifest
from pipelines.lake.derive import Progress, derive, missing
from pipelines.project import Project
from pipelines.update.reports import ChunkReport

_CHUNK_PORTION = 8_192


def chunk_documents(project: Project, *, run_id: str, progress: Progress | None = None) -> ChunkReport:
    """Chunk the contents of active documents that have no chunks yet for today's recipe."""
    started = time.perf_counter()
    lake = project.lake
    active = manifest.active_documents(lake)
    keyed = project.recipe.keyed(active)
    wanted = with_text(project, keyed)
    todo = missing(lake, "chunks", wanted, ["content_hash", "recipe_fp"])
    added = 0
    if todo.num_rows:
        config = project.config
        added = derive(
            lake,
            "chunks",
            elements_of(todo, stored_elements(project, todo)),
            chunk_stage(config.chunking, config.lexical, config.encoder),
            total=todo.num_rows,
            portion_rows=_CHUNK_PORTION,
            run_id=run_id,
            progress=progress,
        ).rows
    return ChunkReport(
        contents=todo.num_rows,
        added=added,
        total=chunks_wanted(project, active).num_rows,
        table_version=lake.version("chunks"),
        seconds=time.perf_counter() - started,
    )


def with_text(project: Project, keyed: pa.Table, *, also: pa.Table | None = None) -> pa.Table:
    """Those whose parse gave elements: an empty or failed one has no chunks, and is not missing any.

    Args:
        project: whose table of elements is read.
        keyed: contents with their fingerprints.
        also: further parsed contents that are not in the table.
    """
    columns = ["content_hash", "parser_fp"]
    parsed = project.lake.read("elements", columns, where=pc.field("status") == "parsed")
    if also is not None:
        parsed = pa.concat_tables([parsed, also.select(columns)], promote_options="default")
    return keyed.join(parsed, keys=columns, join_type="left semi")


def stored_elements(project: Project, todo: pa.Table) -> Iterator[pa.RecordBatch]:
    """Elements of those contents, streamed from the table."""
    yield from project.lake.scan(
        "elements",
        ["content_hash", "parser_fp", "title", "elements"],
        where=pc.field("content_hash").isin(pc.unique(todo["content_hash"])) & (pc.field("status") == "parsed"),
        batch_rows=256,
    )


def elements_of(todo: pa.Table, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Inputs of the chunk stage: the elements of the wanted contents, each with its recipe's fingerprint."""
    recipes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in todo.to_pylist():
        recipes[row["content_hash"], row["parser_fp"]].append(row["recipe_fp"])
    for batch in batches:
        rows: list[int] = []
        fps: list[str] = []
        keys = zip(batch["content_hash"].to_pylist(), batch["parser_fp"].to_pylist(), strict=True)
        for row, key in enumerate(keys):
            for recipe_fp in recipes.pop(key, ()):
                rows.append(row)
                fps.append(recipe_fp)
        if rows:
            taken = batch.take(pa.array(rows, pa.int64()))
            yield pa.RecordBatch.from_arrays(
                [taken["content_hash"], pa.array(fps, pa.string()), taken["title"], taken["elements"]],
                names=["content_hash", "recipe_fp", "title", "elements"],
            )


def chunks_wanted(project: Project, documents: pa.Table) -> pa.Table:
    """Keys, text hash and tokens of the chunks that those documents have under today's recipe."""
    keyed = project.recipe.keyed(documents).select(["content_hash", "recipe_fp"])
    chunks = project.lake.read("chunks", ["content_hash", "recipe_fp", "text_hash", "tokens"])
    return chunks.join(keyed, keys=["content_hash", "recipe_fp"], join_type="left semi")
