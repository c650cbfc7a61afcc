"""Parsing contents, staged or active, that have no elements yet for today's parser: a document joins when it parses."""

from __future__ import annotations

import time

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import TooManyFailures
from pipelines.lake import manifest
from pipelines.lake.dead_letters import Failure
from pipelines.lake.derive import Progress, derive, missing
from pipelines.parsing.stage import parse_stage
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.applying.changes import read_outcomes
from pipelines.update.reports import ParseReport

_PARSE_PORTION = 256  # documents a commit: parsing is slow enough that a kill should cost little


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
