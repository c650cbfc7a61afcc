"""`lockstep dead-letters`: what could not be processed; try it again, or lay it aside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipelines.cli.console import columns
from pipelines.cli.invocation import config_option, json_option, open_console, open_project
from pipelines.lake.dead_letters import STAGES, STATUSES

_SHOWN = ("letter_id", "source", "uri", "stage", "error_class", "attempts", "last_seen_at", "retry_at")
_ERROR_CHARACTERS = 100


@click.group(name="dead-letters")
def dead_letters() -> None:
    """List, show, replay or discard what could not be processed."""


@dead_letters.command(name="list")
@config_option
@json_option
@click.option("--source", help="Only of this source.")
@click.option("--class", "error_class", help="Only of this error class.")
@click.option("--stage", type=click.Choice(STAGES), help="Only of this stage.")
@click.option("--status", type=click.Choice([*STATUSES, "all"]), default="open", show_default=True)
def list_letters(
    config_path: Path, as_json: bool, source: str | None, error_class: str | None, stage: str | None, status: str
) -> None:
    """List dead letters, the newest failure first."""
    console = open_console(as_json)
    wanted = {"source": source, "error_class": error_class, "stage": stage, "status": status}
    conditions = {name: value for name, value in wanted.items() if value and value != "all"}
    table = open_project(config_path).lake.read("dead_letters").sort_by([("last_seen_at", "descending")])
    rows = [row for row in table.to_pylist() if all(row[name] == value for name, value in conditions.items())]
    cells = [[_cell(name, row[name]) for name in _SHOWN] + [_short(row["error"])] for row in rows]
    lines = columns(cells, [*(name.replace("_", " ") for name in _SHOWN), "error"]) if rows else ["no dead letters"]
    console.result({"letters": [_plain(row) for row in rows]}, lines)


@dead_letters.command()
@click.argument("letter_id")
@config_option
@json_option
def show(letter_id: str, config_path: Path, as_json: bool) -> None:
    """Show everything about one letter; a unique beginning of its id is enough."""
    from pipelines.lake.dead_letters import find

    console = open_console(as_json)
    project = open_project(config_path)
    row = find(project.lake, letter_id)
    told = _plain(row)
    told["payload_kept"] = bool(row["content_hash"]) and project.blobs.exists(row["content_hash"])
    console.result(told, [f"{name.replace('_', ' '):<16}{value}" for name, value in told.items() if value is not None])


@dead_letters.command()
@click.argument("letter_ids", nargs=-1)
@config_option
@json_option
@click.option("--class", "error_class", help="All open letters of this error class.")
@click.option("--source", help="All open letters of this source.")
@click.option("--stage", type=click.Choice(STAGES), help="All open letters of this stage.")
@click.option("--all", "everything", is_flag=True, help="All open letters.")
def replay(
    letter_ids: Sequence[str],
    config_path: Path,
    as_json: bool,
    error_class: str | None,
    source: str | None,
    stage: str | None,
    everything: bool,
) -> None:
    """Let the next update try letters again. Asking twice is the same as asking once."""
    from pipelines.update.looking import letters

    console = open_console(as_json)
    project = open_project(config_path)
    found = letters.select(
        project, letter_ids=letter_ids, error_class=error_class, source=source, stage=stage, everything=everything
    )
    report = letters.replay(project, found, run_id=_run_id("replay"))
    console.result(
        asdict(report),
        [
            f"{report.announced} of {report.letters} letters are tried again by the next update (`lockstep update`), "
            f"{report.waiting} wait for it already, {report.understood} messages are understood now",
        ],
    )
    for reason in report.refused:
        console.note(reason)
    if report.refused:
        click.get_current_context().exit(1)


@dead_letters.command()
@click.argument("letter_ids", nargs=-1, required=True)
@config_option
@json_option
@click.option("--reason", required=True, help="Why; kept in the audit log.")
def discard(letter_ids: Sequence[str], config_path: Path, as_json: bool, reason: str) -> None:
    """Lay letters aside: they count no more, until the document or its error is another."""
    from pipelines.update.looking import letters

    console = open_console(as_json)
    project = open_project(config_path)
    found = letters.select(project, letter_ids=letter_ids)
    report = letters.discard(project, found, reason=reason, run_id=_run_id("discard"))
    unchanged = f"; {report.unchanged} were not open" if report.unchanged else ""
    console.result(asdict(report), [f"{report.discarded} letters discarded{unchanged}"])


def _run_id(what: str) -> str:
    from pipelines.identity import fingerprint

    return "cli-" + fingerprint(what, {"pid": os.getpid(), "random": os.urandom(8)})[:12]


def _cell(name: str, value: Any) -> str:
    if name == "letter_id":
        return str(value)[:12]
    return "-" if value is None else str(value)[:19] if name.endswith("_at") else str(value)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _ERROR_CHARACTERS else line[: _ERROR_CHARACTERS - 1] + "…"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in row.items()}
