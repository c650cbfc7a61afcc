"""`lockstep query`: questions, one or many, asked as somebody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipelines.cli.invocation import (
    config_option,
    json_option,
    open_console,
    open_project,
    principals_option,
    tenant_option,
)


@click.command()
@click.argument("text", required=False)
@config_option
@json_option
@principals_option("Who asks: user:NAME, group:NAME or role:NAME; may be repeated. Nobody: no results.")
@tenant_option
@click.option("--k", default=10, show_default=True, type=click.IntRange(1, 1000), help="Hits a question.")
@click.option("--mode", type=click.Choice(["hybrid", "dense", "bm25"]), help="Default: as configured.")
@click.option(
    "--batch",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Many questions, one a line: id, tab, text.",
)
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "trec"]),
    default="text",
    help="With --batch: trec prints a TREC run file, one best hit a document.",
)
def query(
    text: str | None,
    config_path: Path,
    as_json: bool,
    principals: Sequence[str],
    tenant: str,
    k: int,
    mode: Any,
    batch: Path | None,
    output: str,
) -> None:
    """Search the live snapshot as somebody."""
    from pipelines.cli.batch import answer_batch, hit_record
    from pipelines.embedding import warm
    from pipelines.retrieval.asker import Asker
    from pipelines.retrieval.snippet import snippet

    console = open_console(as_json)
    if (text is None) == (batch is None):
        raise click.UsageError("give a question, or --batch FILE with questions, and not both")
    if output == "trec" and batch is None:
        raise click.UsageError("--format trec goes with --batch FILE")
    if not principals:
        console.note("nobody asks (--as was not given), and nobody may read anything: no results")
    project = open_project(config_path)
    asker = Asker(project)
    with warm.short_lived():
        if batch is not None:
            answer_batch(console, asker, batch, principals, tenant=tenant, k=k, mode=mode, trec=output == "trec")
            return
        assert text is not None
        if principals and (mode or project.config.retrieval.mode) != "bm25":
            warm.begin(project.config.encoder, texts=1)
        answer = asker.ask([text], principals, tenant=tenant, k=k, mode=mode)
    hits = [hit_record(hit) for hit in answer.hits[0]]
    lines = []
    for number, hit in enumerate(hits, start=1):
        place = " · ".join(part for part in (hit["heading_path"], f"p. {hit['pages']}" if hit["pages"] else "") if part)
        lines += [f"{number:>2}. {hit['uri']}  ({hit['score']:.4f})" + (f"  {place}" if place else "")]
        lines += [f"    {snippet(hit['body'], text, width=300)}"]
    console.result({"snapshot_id": answer.snapshot_id, "hits": hits}, lines or ["no results"])
