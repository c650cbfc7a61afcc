"""`lockstep verify`, `snapshots` and `rollback`: what the index holds, its history, and going back in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from pipelines.cli.console import columns, progress_bars
from pipelines.cli.invocation import config_option, json_option, open_console, open_project


@click.command()
@config_option
@json_option
def verify(config_path: Path, as_json: bool) -> None:
    """Read the live collection back and compare it with the tables."""
    from pipelines.update.snapshot.verify import verify as read_back

    console = open_console(as_json)
    with progress_bars() as bars:
        report = read_back(open_project(config_path), progress=bars.of("rows"))
    told = {
        "ok": report.ok,
        "snapshot_id": report.snapshot_id,
        "compared": report.compared,
        "complete": report.complete,
        "rows": report.rows,
        "expected_rows": report.expected_rows,
        "expected_digest": report.expected_digest,
        "actual_digest": report.actual_digest,
        "differing": report.differing,
        "differing_documents": list(report.differing_documents),
        "differing_rows": list(report.differing_rows),
        "seconds": {"total": report.seconds},
    }
    verdict = "the index holds exactly what the tables say"
    if not report.complete:
        verdict = "what could be compared of the index is as the tables say, NOT EVERYTHING COULD BE"
    if not report.ok:
        verdict = "THE INDEX DIFFERS FROM THE TABLES"
    console.result(
        told,
        [
            f"{verdict}: snapshot {report.snapshot_id}, {report.rows} rows (expected {report.expected_rows})",
            f"expected digest  {report.expected_digest}",
            f"actual digest    {report.actual_digest}",
            f"compared         {report.compared}",
            *(f"differs          {_differing(row)}" for row in report.differing_rows),
        ],
    )
    if not report.ok:
        console.note(
            "run `lockstep update --full`: it builds the index anew beside this one, names the documents that differ, "
            "and tells how to make the new one live"
        )
        click.get_current_context().exit(1)


def _differing(row: Mapping[str, object]) -> str:
    where = " ".join(str(row[name]) for name in ("uri", "chunk_id") if name in row)
    what = " ".join(str(row[name]) for name in ("problem", "which", "told", "table", "key") if name in row)
    return f"{where}: {what}"


@click.command()
@config_option
@json_option
def snapshots(config_path: Path, as_json: bool) -> None:
    """List the history of the index, newest first, like git log."""
    from pipelines.lake.snapshots import AGREEMENT, history

    console = open_console(as_json)
    project = open_project(config_path)
    found = [
        {
            "snapshot_id": s.snapshot_id,
            "status": s.status,
            "kind": s.kind,
            "documents": s.documents,
            "rows": s.rows,
            "digest": s.digest,
            "manifest_version": s.manifest_version,
            "parent": s.parent,
            "collection": s.collection,
            "run_id": s.run_id,
            "created_at": s.created_at.isoformat(),
            "differing_documents": s.gates.get(AGREEMENT, {}).get("differing_documents", []),
        }
        for s in reversed(history(project.lake, project.alias))
    ]
    shown = ("snapshot_id", "status", "kind", "documents", "rows", "created_at")
    rows = [[*(str(s[name])[:19] for name in shown), str(s["digest"])[:16]] for s in found]
    lines = columns(rows, [*shown, "digest"]) if rows else ["there is no snapshot yet"]
    for one in found:
        if one["status"] == "diverged":
            documents = ", ".join(one["differing_documents"]) or "none: its recorded digest alone"
            lines.append(f"{one['snapshot_id']} was rebuilt and differs from the incremental index in: {documents}")
    console.result({"snapshots": found}, lines)


@click.command()
@click.argument("snapshot", required=False)
@config_option
@json_option
def rollback(snapshot: str | None, config_path: Path, as_json: bool) -> None:
    """Make an earlier snapshot live again: SNAPSHOT, or the one before the live one."""
    from pipelines.identity import fingerprint
    from pipelines.update.snapshot.rollback import rollback as go_back

    console = open_console(as_json)
    project = open_project(config_path)
    run_id = "cli-" + fingerprint("rollback", {"pid": os.getpid(), "random": os.urandom(8)})[:12]
    with project.writer(run_id, "rollback"), progress_bars() as bars:
        report = go_back(project, snapshot, run_id=run_id, progress=bars.of("index"))
    how = "built again from the tables" if report.rebuilt else "from its slot"
    console.result(
        {
            "snapshot_id": report.snapshot_id,
            "previous": report.previous,
            "rebuilt": report.rebuilt,
            "seconds": {"swap": report.swap_seconds, "total": report.seconds},
        },
        [
            f"snapshot {report.snapshot_id} is live again ({how}); before it was {report.previous}",
            f"the swap took {report.swap_seconds * 1000:.0f} ms; it stays until an update finds something new",
        ],
    )
