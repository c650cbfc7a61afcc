"""Parsing contents, staged or active, that have no elements yet for today's parser: a document joins when it parses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines.embedding import warm
from pipelines.errors import TooManyFailures
from pipelines.lake.dead_letters import Failure
from pipelines.lake.derive import Progress, derive, missing
from pipelines.lake.portions import PORTION_ROWS
from pipelines.parsing.stage import parse_stage
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.applying import reach
from pipelines.update.applying.changes import read_outcomes
from pipelines.update.reports import ParseReport

_PARSE_PORTION = 256  # documents a commit: parsing is slow enough that a kill should cost little
_PORTION_SECONDS = 5.0  # and where it is not, a commit waits for so long: 300,000 records were 1,324 files otherwise
_KEY = ["content_hash", "media_type"]


def parse_documents(
    project: Project, *, run_id: str, full: bool = False, progress: Progress | None = None
) -> ParseReport:
    """Parse contents, staged or active, that have no elements yet for today's parser.

    Args:
        project: whose documents are meant.
        run_id: recorded with what is written.
        full: look at all active documents, instead of those that changed since everything was made last.
        progress: called with (documents handed to the parsers, documents to parse).

    Raises:
        TooManyFailures: failures of staged documents pass the number and the ratio of `limits`.
    """
    started = time.perf_counter()
    lake, recipe = project.lake, project.recipe
    staged = staging.read_changes(project.home.staging, manifest_version=lake.version("documents"))
    content = staged.filter(pc.equal(staged["action"], "content"))
    reach.begin(project, full=full)
    active, _ = reach.documents(project)
    keyed = recipe.keyed(pa.concat_tables([content.select(_KEY), active.select(_KEY)], promote_options="default"))
    todo = missing(lake, "elements", keyed, ["content_hash", "parser_fp"])
    before = lake.version("elements")
    if todo.num_rows:
        warm.begin(project.config.encoder, texts=todo.num_rows)
        derive(
            lake,
            "elements",
            todo.select(_KEY).to_batches(max_chunksize=16),
            parse_stage(project.config.parsing, project.blobs.read),
            total=todo.num_rows,
            portion_rows=_PARSE_PORTION,
            portion_seconds=_PORTION_SECONDS,
            run_id=run_id,
            progress=progress,
        )
    statuses: Counter[str] = Counter()
    characters = 0
    for part in _parts(todo):
        made = _results(project, part, ["status", "characters"])
        statuses.update(made["status"].to_pylist())
        characters += int(pc.sum(made["characters"]).as_py() or 0)
    failures = parse_failures(project, staged)
    unfetched = [f for f in read_outcomes(project.home.staging)[1] if f.stage == "fetch"]
    _stop_when_too_many(project, len(failures) + len(unfetched), content.num_rows + len(unfetched))
    return ParseReport(
        parsed=statuses["parsed"],
        empty=statuses["empty"],
        failed=statuses["failed"],
        reused=content.num_rows - _shared(content["content_hash"], todo["content_hash"]),
        characters=characters,
        failures=failures,
        table_version=lake.version("elements") if todo.num_rows else before,
        seconds=time.perf_counter() - started,
    )


_RESULT = ["status", "error_class", "error", "transient", "title", "metadata", "characters"]


def _results(
    project: Project, keyed: pa.Table, columns: Sequence[str], *, where: ds.Expression | None = None
) -> pa.Table:
    """Parse results of those keys, without the elements."""
    names = ["content_hash", "parser_fp", *columns]
    found = project.lake.lookup("elements", keyed["content_hash"], names, where=where)
    keys = keyed.select(["content_hash", "parser_fp"])
    return found.join(keys, keys=["content_hash", "parser_fp"], join_type="left semi")


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(table), PORTION_ROWS):
        yield table.slice(start, PORTION_ROWS)


def _shared(some: pa.ChunkedArray, others: pa.ChunkedArray) -> int:
    """How many distinct values are in both."""
    return int(pc.sum(pc.is_in(pc.unique(some), value_set=pc.unique(others))).as_py() or 0)


def parse_results(project: Project, documents: pa.Table) -> dict[tuple[str, str], dict[str, object]]:
    """Parse result by (content_hash, media_type) for the given documents, as far as they were parsed."""
    return _by_content(project, documents, None)


def _by_content(
    project: Project, documents: pa.Table, where: ds.Expression | None
) -> dict[tuple[str, str], dict[str, object]]:
    keyed = project.recipe.keyed(documents)
    results = _results(project, keyed, _RESULT, where=where)
    by_key = {(row["content_hash"], row["parser_fp"]): row for row in results.to_pylist()}
    if not by_key:
        return {}
    found = {}
    for row in keyed.to_pylist():
        result = by_key.get((row["content_hash"], row["parser_fp"]))
        if result is not None:
            found[row["content_hash"], row["media_type"]] = result
    return found


def parse_failures(project: Project, staged: pa.Table) -> tuple[Failure, ...]:
    """The staged documents whose content could not be parsed, with the parser's reason."""
    staged = staged.filter(pc.equal(staged["action"], "content")).select(["source", "uri", *_KEY])
    return tuple(failure for part in _parts(staged) for failure in _failures_of(project, part))


def _failures_of(project: Project, staged: pa.Table) -> Iterator[Failure]:
    results = _by_content(project, staged, pc.field("status") == "failed")
    if not results:
        return
    for row in staged.to_pylist():
        result = results.get((row["content_hash"], row["media_type"]))
        if result is not None:
            yield Failure(
                source=row["source"],
                uri=row["uri"],
                stage="parse",
                error_class=str(result["error_class"] or "ParseError"),
                error=str(result["error"] or ""),
                transient=bool(result["transient"]),
                content_hash=row["content_hash"],
            )


def _stop_when_too_many(project: Project, failed: int, documents: int) -> None:
    limits = project.config.limits
    if failed > limits.max_failures and failed > limits.max_failure_ratio * documents:
        raise TooManyFailures(
            f"{failed} of {documents} changed documents could not be fetched or parsed (limits: {limits.max_failures} "
            f"and {limits.max_failure_ratio:.0%}); nothing was made visible. Look at the errors in table 'elements', "
            "then correct the source or raise `limits` and run the update again"
        )
