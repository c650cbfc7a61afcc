"""`lockstep maintenance`: prune what nothing refers to, compact the tables, and tell what that gave back."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.cli.console import columns, progress_bars
from pipelines.cli.invocation import config_option, json_option, open_console, open_project

if TYPE_CHECKING:
    from pipelines.update.upkeep.maintenance import MaintenanceReport


@click.command()
@config_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
def maintenance(config_path: Path, as_json: bool, dry_run: bool) -> None:
    """Remove what no retained snapshot refers to (`retention` in the configuration), and compact the tables."""
    from pipelines.identity import fingerprint
    from pipelines.update.upkeep.maintenance import maintain

    console = open_console(as_json)
    project = open_project(config_path)
    run_id = "cli-" + fingerprint("maintenance", {"pid": os.getpid(), "random": os.urandom(8)})[:12]
    if dry_run:
        report = maintain(project, run_id=run_id, dry_run=True)
    else:
        with project.writer(run_id, "maintenance"), progress_bars() as bars:
            report = maintain(project, run_id=run_id, progress=bars.of("tables"))
    console.result(asdict(report), _lines(report))


def _lines(report: MaintenanceReport) -> list[str]:
    shown = ("table", "rows", "pruned_rows", "files", "removed_files", "bytes_before", "bytes_after")
    rows = [
        [f"{getattr(table, name):,}" if name != "table" else table.table for name in shown] for table in report.tables
    ]
    would = "would be " if report.dry_run else ""
    return [
        *columns(rows, [name.replace("_", " ") for name in shown]),
        f"{report.pruned_rows:,} rows, {report.pruned_blobs:,} blobs and what only {report.pruned_snapshots:,} old "
        f"snapshots needed {would}removed; {report.reclaimed_bytes:,} bytes {would}given back, "
        f"{report.bytes_after:,} left ({report.seconds:.1f} s)",
        f"{report.retained_snapshots:,} snapshots can be brought back",
        *(f"{table.table}: {table.note}" for table in report.tables if table.note),
    ]
