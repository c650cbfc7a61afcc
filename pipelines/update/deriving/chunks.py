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
from pipelines.lake.portions import PORTION_ROWS, portions
from pipelines.project import Project
from pipelines.update.applying import reach
from pipelines.update.reports import ChunkReport

_CHUNK_PORTION = 8_192
_PORTION_SECONDS = 5.0  # worth a commit in any case
_EXACT_ROWS = 65_536  # of a table; of a larger one an update that looks at what changed tells the rows that are stored


def chunk_documents(project: Project, *, run_id: str, progress: Progress | None = None) -> ChunkReport:
    """Chunk the contents of active documents that have no chunks yet for today's recipe."""
    started = time.perf_counter()
    lake = project.lake
    looked, everything = reach.documents(project)
    todo = with_text(project, missing(lake, "chunks", project.recipe.keyed(looked), ["content_hash", "recipe_fp"]))
    added = 0
    if todo.num_rows:
        config = project.config
        added = derive(
            lake,
            "chunks",
            chunk_inputs(project, todo),
            chunk_stage(config.chunking, config.lexical, config.encoder),
            total=todo.num_rows,
            portion_rows=_CHUNK_PORTION,
            portion_seconds=_PORTION_SECONDS,
            run_id=run_id,
            progress=progress,
        ).rows
    return ChunkReport(
        contents=todo.num_rows,
        added=added,
        total=_total(project, looked, everything=everything),
        table_version=lake.version("chunks"),
        seconds=time.perf_counter() - started,
    )


def _total(project: Project, looked: pa.Table, *, everything: bool) -> int:
    if not everything and project.lake.count("chunks") > _EXACT_ROWS:
        return project.lake.count("chunks")
    documents = looked if everything else manifest.active_documents(project.lake, columns=reach.COLUMNS)
    return sum(map(len, chunks_wanted(project, documents)))


def with_text(project: Project, keyed: pa.Table, *, also: pa.Table | None = None) -> pa.Table:
    """Those whose parse gave elements: an empty or failed one has no chunks, and is not missing any.

    Args:
        project: whose table of elements is read.
        keyed: contents with their fingerprints.
        also: further parsed contents that are not in the table.
    """
    columns = ["content_hash", "parser_fp"]
    found = []
    for start in range(0, len(keyed), PORTION_ROWS):
        part = keyed.slice(start, PORTION_ROWS)
        parsed = project.lake.lookup("elements", part["content_hash"], columns, where=pc.field("status") == "parsed")
        if also is not None:
            parsed = pa.concat_tables([parsed, also.select(columns)], promote_options="default")
        numbered = part.append_column("__row", pa.array(range(len(part)), pa.int64()))
        kept = numbered.join(parsed, keys=columns, join_type="left semi")["__row"]
        found.append(part.take(kept.take(pc.array_sort_indices(kept))))
    return pa.concat_tables([keyed.slice(0, 0), *found])


def chunk_inputs(project: Project, todo: pa.Table) -> Iterator[pa.RecordBatch]:
    """Inputs of the chunk stage from the table of elements, some thousand contents at a time."""
    for start in range(0, len(todo), _CHUNK_PORTION):
        part = todo.slice(start, _CHUNK_PORTION)
        stored = project.lake.lookup_batches(
            "elements",
            part["content_hash"],
            ["content_hash", "parser_fp", "title", "elements"],
            where=pc.field("status") == "parsed",
            batch_rows=256,
        )
        yield from elements_of(part, stored)


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


def chunks_wanted(project: Project, documents: pa.Table) -> Iterator[pa.Table]:
    """Text hash and tokens of the chunks that those documents have under today's recipe, a portion at a time."""
    keyed = project.recipe.keyed(documents).select(["content_hash", "recipe_fp"])
    columns = ["content_hash", "recipe_fp", "text_hash", "tokens"]
    if len(keyed) <= PORTION_ROWS:
        chunks = project.lake.lookup("chunks", keyed["content_hash"], columns)
        yield chunks.join(keyed, keys=columns[:2], join_type="left semi").select(columns[2:])
        return
    for portion in portions(len(keyed)):
        part = keyed.filter(portion.among(keyed["content_hash"]))
        chunks = project.lake.lookup("chunks", portion, columns)
        yield chunks.join(part, keys=columns[:2], join_type="left semi").select(columns[2:])
