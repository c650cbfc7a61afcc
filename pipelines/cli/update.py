"""`lockstep plan` and `lockstep update`: what an update would do, and doing it."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.console import progress_bars
from pipelines.cli.invocation import USAGE, config_option, json_option, open_console, open_project, writing
from pipelines.home import Home


@click.command()
@config_option
@json_option
@click.option("--approve-deletions", is_flag=True, help="Plan as if the mass-deletion guard had your word.")
def plan(config_path: Path, as_json: bool, approve_deletions: bool) -> None:
    """Show what an update would do and what it would cost, changing nothing."""
    from dataclasses import asdict

    from pipelines.update.plan import plan as make_plan

    console = open_console(as_json)
    found = make_plan(open_project(config_path), approve_deletions=approve_deletions)
    documents = {
        "added": found.added,
        "changed": found.changed,
        "deleted": found.deleted,
        "unchanged": found.unchanged,
        "access_changed": found.access_changed,
    }
    problems = [asdict(problem) for outcome in found.sources for problem in outcome.problems]
    console.result(
        {
            "documents": documents,
            "embeddings": {"to_encode": found.to_encode, "exact": found.encode_exact},
            "parse": {"to_parse": found.to_parse},
            "rows_once": found.rows_once,
            "estimated_seconds": round(found.estimated_seconds, 1),
            "sources": [asdict(outcome) for outcome in found.sources],
            "problems": problems,
            "seconds": {"total": found.seconds},
        },
        [
            "documents   " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in documents.items()),
            f"to parse    {found.to_parse}",
            f"to encode   {found.to_encode}{'' if found.encode_exact else ' (estimated)'} texts, "
            f"about {found.estimated_seconds:.0f} s",
            *(
                [f"once        {found.rows_once} rows for the other slot, if anything changes"]
                if found.rows_once
                else []
            ),
            *(f"problem     {problem['source']}: {problem['uri']}: {problem['error']}" for problem in problems),
        ],
    )
    for note in found.notes:
        console.note(note)
    if found.notes:
        click.get_current_context().exit(1)


@click.command()
@config_option
@json_option
@click.option(
    "--full",
    is_flag=True,
    help="Read every document, build from nothing and check every row (the job nightly_rebuild).",
)
@click.option("--thorough", is_flag=True, help="Read every document, whatever its size and time say.")
@click.option("--approve-deletions", is_flag=True, help="Allow more deletions than the guard does.")
def update(config_path: Path, as_json: bool, full: bool, thorough: bool, approve_deletions: bool) -> None:
    """Bring the index to the sources' state: run the job incremental_update in this process."""
    from pipelines.cli import summary
    from pipelines.config import load_config
    from pipelines.embedding.model import read_ahead

    console = open_console(as_json)
    config = load_config(config_path)  # a wrong configuration is a usage error, before anything starts
    read_ahead(config.encoder)
    from jobs.run import run_job
    from pipelines.definitions import defs
    from pipelines.embedding.warm import keep_ready, short_lived

    home = Home.from_environment()
    with progress_bars() as bars, writing(home), short_lived():
        outcome = run_job(
            defs,
            "nightly_rebuild" if full else "incremental_update",
            config_path,
            home,
            writer={
                "thorough": thorough,
                "approve_deletions": approve_deletions,
                "max_retries": 1,
                "retry_delay_seconds": 1.0,
            },
            on_progress=bars.update,
        )
    keep_ready(config.encoder)
    told = summary.of_update(outcome)
    console.result(told, summary.lines(told) if "index_snapshots" in outcome.reports else [])
    for message in summary.complaints(outcome):
        console.note(message)
    if not summary.went_well(outcome):
        click.get_current_context().exit(2 if isinstance(outcome.error, USAGE) else 1)
