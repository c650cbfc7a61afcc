"""`lockstep sources`: what is configured, how far each source was followed, and whether it can be read at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pipelines.cli.console import columns
from pipelines.cli.invocation import config_option, json_option, open_console, open_project


@click.group()
def sources() -> None:
    """Try the sources, and see how far each was followed."""


@sources.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@config_option
@json_option
def check(names: Sequence[str], config_path: Path, as_json: bool) -> None:
    """Try connection and permissions of sources (all, or those named), changing nothing."""
    from pipelines.update.looking.checks import check_sources

    console = open_console(as_json)
    found = check_sources(open_project(config_path), names)
    lines = []
    for source in found:
        lines.append(f"{source.source} ({source.kind}): {'ok' if source.ok else 'FAILED'}")
        lines += [f"  {'ok    ' if c.ok else 'FAILED'}  {c.name}: {c.message}" for c in source.checks]
    told = [
        {
            "source": source.source,
            "kind": source.kind,
            "ok": source.ok,
            "checks": [asdict(check) for check in source.checks],
            "seconds": {"total": round(source.seconds, 3)},
        }
        for source in found
    ]
    ok = all(source.ok for source in found)
    console.result({"ok": ok, "sources": told}, lines)
    if not ok:
        failed = ", ".join(source.source for source in found if not source.ok)
        console.note(f"not usable as configured: {failed}; what to do is said with each check above")
        click.get_current_context().exit(1)


@sources.command("list")
@config_option
@json_option
def list_sources(config_path: Path, as_json: bool) -> None:
    """List the sources: how many documents each has, when it was listed, what waits, and its last error."""
    from pipelines.lake import manifest
    from pipelines.update.applying.pending import pending
    from pipelines.update.looking import progress

    console = open_console(as_json)
    project = open_project(config_path)
    counts = manifest.active_documents(project.lake)["source"].value_counts().to_pylist()
    documents = {row["values"]: row["counts"] for row in counts}
    waiting = {found.source: found for found in pending(project)}
    told: list[dict[str, Any]] = []
    for section in project.config.sources:
        state, queue = progress.read(project.home, section.name), waiting[section.name]
        told.append(
            {
                "source": section.name,
                "kind": section.kind,
                "monitor": section.monitor,
                "documents": documents.get(section.name, 0),
                "listed_at": state.listed_at,
                "contacted_at": state.contacted_at,
                "pending": queue.announced + queue.found,
                "oldest_seconds": queue.oldest_seconds,
                "held": queue.held,
                "error": state.error,
                "retry_at": state.retry_at,
            }
        )
    now = datetime.now(UTC)
    rows = [
        [
            row["source"],
            row["kind"],
            "on" if row["monitor"] else "off",
            row["documents"],
            _ago(row["listed_at"], now),
            row["pending"],
            row["held"] or row["error"] or "",
        ]
        for row in told
    ]
    header = ("source", "kind", "monitor", "documents", "listed", "pending", "held, or last error")
    console.result({"sources": [_plain(row) for row in told]}, columns(rows, header))


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    seconds = max(0, int((now - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
