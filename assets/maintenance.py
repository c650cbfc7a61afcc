"""How a maintenance run looks in the UI: what each table gave back, as a table, as bars, and as numbers over time."""

from typing import Any

import dagster as dg

from assets.catalogue import markdown_table, report_metadata
from pipelines.project import Project
from pipelines.update.upkeep.maintenance import MaintenanceReport, TableUpkeep

_BAR_CHARACTERS = 30
_UNITS = ("B", "KB", "MB", "GB", "TB")
_SHOWN_AS_ASSETS = ("documents", "elements", "chunks", "embeddings", "index_snapshots", "dead_letters")


def maintenance_metadata(report: MaintenanceReport) -> dict[str, Any]:
    """Of the run: the numbers, a row a table, and how much of each table's folder is left."""
    largest = max((table.bytes_before for table in report.tables), default=0)
    rows = [_row(table, largest) for table in report.tables if table.bytes_before]
    return {**report_metadata(report), "tables": markdown_table(rows), "seconds": round(report.seconds, 3)}


def table_observations(project: Project, report: MaintenanceReport) -> list[dg.AssetObservation]:
    """One a table that is an asset, so that the UI plots its rows, files and bytes over the runs."""
    lake = project.lake
    return [
        dg.AssetObservation(
            table.table,
            metadata={
                "dagster/row_count": table.rows,
                "size_bytes": lake.size_bytes(table.table),
                "disk_bytes": table.bytes_after,
                "reclaimed_bytes": table.bytes_before - table.bytes_after,
                "pruned_rows": table.pruned_rows,
                "files": table.files,
                "reason": "dry run of maintenance" if report.dry_run else "maintenance",
            },
        )
        for table in report.tables
        if table.table in _SHOWN_AS_ASSETS and lake.version(table.table) >= 0
    ]


def _row(table: TableUpkeep, largest: int) -> dict[str, object]:
    left = round(_BAR_CHARACTERS * table.bytes_after / largest)
    gone = round(_BAR_CHARACTERS * max(table.bytes_before - table.bytes_after, 0) / largest)
    return {
        "table": table.table,
        "rows": table.rows,
        "pruned": table.pruned_rows,
        "files": table.files,
        "files removed": table.removed_files,
        "before": _size(table.bytes_before),
        "after": _size(table.bytes_after),
        "kept and given back": "█" * left + "░" * gone,
        "note": table.note,
    }


def _size(size_bytes: float) -> str:
    for unit in _UNITS:
        if size_bytes < 1_000 or unit == _UNITS[-1]:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1_000
    raise AssertionError("unreachable")
