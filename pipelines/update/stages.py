"""Steps 2 and 4: parse, chunk and encode whatever the manifest, and what is about to join it, lacks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.chunking.stage import chunk_stage
from pipelines.embedding.stage import encode_stage
from pipelines.errors import TooManyFailures
from pipelines.lake import dead_letters, manifest
from pipelines.lake.dead_letters import Failure
from pipelines.lake.derive import Progress, derive, missing
from pipelines.parsing.stage import parse_stage
from pipelines.update import staging
from pipelines.update.changes import read_outcomes
from pipelines.update.project import Project
from pipelines.update.reports import ChunkReport, EncodeReport, ParseReport

_PARSE_PORTION = 256  # documents a commit: parsing is slow enough that a kill should cost little
_CHUNK_PORTION = 8_192
_SORT_WINDOW = 65_536  # texts sorted by length at a time: keeps batches even and memory bounded


def parse_documents(project: Project, *, run_id: str, progress: Progress | None = None) -> ParseReport:
    """Parse contents, staged or active, that have no elements yet for today's parser.

    Raises:
        TooManyFailures: failures of staged documents pass the number and the ratio of `limits`.
    """
    started = time.perf_counter()
    lake, recipe = project.lake, project.recipe
    staged = staging.read_changes(project.home.staging, manifest_version=lake.version("documents"))
    content = staged.filter(pc.equal(staged["action"], "content"))
    active = manifest.active_documents(lake)
    columns = ["content_hash", "media_type"]
    keyed = recipe.keyed(pa.concat_tables([content.select(columns), active.select(columns)], promote_options="default"))
    todo = missing(lake, "elements", keyed, ["content_hash", "parser_fp"])
    before = lake.version("elements")
    if todo.num_rows:
        derive(
            lake,
            "elements",
            todo.select(columns).to_batches(max_chunksize=16),
            parse_stage(project.config.parsing, project.blobs.read),
            total=todo.num_rows,
            portion_rows=_PARSE_PORTION,
            run_id=run_id,
            progress=progress,
        )
    made = _results(project, todo)
    failures = parse_failures(project, staged)
    unfetched = [f for f in read_outcomes(project.home.staging)[1] if f.stage == "fetch"]
    _stop_when_too_many(project, len(failures) + len(unfetched), content.num_rows + len(unfetched))
    statuses = made["status"].to_pylist()
    return ParseReport(
        parsed=statuses.count("parsed"),
        empty=statuses.count("empty"),
        failed=statuses.count("failed"),
        reused=content.num_rows - len(set(content["content_hash"].to_pylist()) & set(todo["content_hash"].to_pylist())),
        characters=int(pc.sum(made["characters"]).as_py() or 0),
        failures=failures,
        table_version=lake.version("elements") if todo.num_rows else before,
        seconds=time.perf_counter() - started,
    )


def _results(project: Project, keyed: pa.Table) -> pa.Table:
    """Parse results of those keys, without the elements."""
    columns = [
        "content_hash",
        "parser_fp",
        "status",
        "error_class",
        "error",
        "transient",
        "title",
        "metadata",
        "characters",
    ]
    if keyed.num_rows == 0:
        return project.lake.read("elements", columns, where=pc.scalar(False))
    where = pc.field("content_hash").isin(pc.unique(keyed["content_hash"]))
    found = project.lake.read("elements", columns, where=where)
    wanted = set(zip(keyed["content_hash"].to_pylist(), keyed["parser_fp"].to_pylist(), strict=True))
    keys = zip(found["content_hash"].to_pylist(), found["parser_fp"].to_pylist(), strict=True)
    return found.filter(pa.array([key in wanted for key in keys], pa.bool_()))


def parse_results(project: Project, documents: pa.Table) -> dict[tuple[str, str], dict[str, object]]:
    """Parse result by (content_hash, media_type) for the given documents, as far as they were parsed."""
    keyed = project.recipe.keyed(documents)
    by_key = {(row["content_hash"], row["parser_fp"]): row for row in _results(project, keyed).to_pylist()}
    found = {}
    for row in keyed.to_pylist():
        result = by_key.get((row["content_hash"], row["parser_fp"]))
        if result is not None:
            found[row["content_hash"], row["media_type"]] = result
    return found


def parse_failures(project: Project, staged: pa.Table) -> tuple[Failure, ...]:
    """The staged documents whose content could not be parsed, with the parser's reason."""
    staged = staged.filter(pc.equal(staged["action"], "content"))
    if staged.num_rows == 0:
        return ()
    results = parse_results(project, staged)
    failures = []
    for row in staged.select(["source", "uri", "content_hash", "media_type"]).to_pylist():
        result = results.get((row["content_hash"], row["media_type"]))
        if result is not None and result["status"] == "failed":
            failures.append(
                Failure(
                    source=row["source"],
                    uri=row["uri"],
                    stage="parse",
                    error_class=str(result["error_class"] or "ParseError"),
                    error=str(result["error"] or ""),
                    transient=bool(result["transient"]),
                    content_hash=row["content_hash"],
                )
            )
    return tuple(failures)


def _stop_when_too_many(project: Project, failed: int, documents: int) -> None:
    limits = project.config.limits
    if failed > limits.max_failures and failed > limits.max_failure_ratio * documents:
        raise TooManyFailures(
            f"{failed} of {documents} changed documents could not be fetched or parsed (limits: {limits.max_failures} "
            f"and {limits.max_failure_ratio:.0%}); nothing was made visible. Look at the errors in table 'elements', "
            "then correct the source or raise `limits` and run the update again"
        )


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


def chunks_wanted(project: Project, documents: pa.Table) -> pa.Table:
    """Keys, text hash and tokens of the chunks that those documents have under today's recipe."""
    keyed = project.recipe.keyed(documents).select(["content_hash", "recipe_fp"])
    chunks = project.lake.read("chunks", ["content_hash", "recipe_fp", "text_hash", "tokens"])
    return chunks.join(keyed, keys=["content_hash", "recipe_fp"], join_type="left semi")


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
