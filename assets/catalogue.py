"""How tables and reports look in Dagster: definition metadata, and the metadata of one materialization.

What is counted comes from the library's reports; nothing is computed here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import dagster as dg
import pyarrow as pa

from assets.columns import INDEX, KEYS, LINEAGE, SCHEMAS, describe
from pipelines.project import Project

if TYPE_CHECKING:
    Materialization: TypeAlias = dg.MaterializeResult[Any]
else:
    # What an asset's body returns: Dagster takes only the bare class for "tells of its outputs and checks by itself".
    Materialization = dg.MaterializeResult

OWNERS = ("team:data-platform",)
WRITER_POOL = "lockstep_writer"  # one run at a time, by the instance (resources/instance.py); single steps claim it too

_PREVIEW_ROWS = 6
_CELL_CHARACTERS = 90
_SHOWN_FAILURES = 20


def table_metadata(table: str) -> dict[str, Any]:
    """Definition metadata of an asset that is a table: its columns, their meaning, and its name."""
    metadata: dict[str, Any] = {"dagster/column_schema": column_schema(table)}
    if table != INDEX:
        metadata["dagster/table_name"] = f"lockstep.{table}"
        metadata["dagster/storage_kind"] = "deltalake"
    return metadata


def column_lineage(table: str) -> dict[str, Any]:
    """Where the columns of a table come from. Dagster reads this from materializations, not from definitions."""
    if table not in LINEAGE:
        return {}
    return {
        "dagster/column_lineage": dg.TableColumnLineage(
            {
                column: [dg.TableColumnDep(asset_key=dg.AssetKey(asset), column_name=name) for asset, name in origins]
                for column, origins in LINEAGE[table].items()
            }
        )
    }


def column_schema(table: str) -> dg.TableSchema:
    """Columns of a table with type, nullability and description."""
    key = KEYS[table]
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=field.name,
                type=_type_name(field.type),
                description=describe(table, field.name),
                constraints=dg.TableColumnConstraints(nullable=field.nullable, unique=key == (field.name,)),
            )
            for field in SCHEMAS[table]
        ],
        constraints=dg.TableConstraints(other=[f"unique: {', '.join(key)}"]),
    )


def table_result(
    project: Project,
    table: str,
    report: object,
    *,
    preview: Sequence[str],
    check_results: Sequence[dg.AssetCheckResult] = (),
    **counts: Any,
) -> Materialization:
    """The materialization of a table: rows, version, size, what the report counted, and a few rows to look at.

    Args:
        project: whose table it is.
        table: its name, which is also the asset's.
        report: the library's record of the step.
        preview: columns to show; never a vector, and never words of a document, which the UI would show to everybody
            and keep with the run, whatever becomes of who may read them.
        check_results: of the checks that the asset's own step made.
        counts: more metadata, under the keys that all assets share (added, changed, deleted, unchanged).
    """
    lake = project.lake
    version = lake.version(table)
    metadata = {
        "dagster/row_count": lake.count(table),
        "table_version": version,
        "size_bytes": lake.size_bytes(table),
        "location": dg.MetadataValue.path(lake.uri(table)),
        **report_metadata(report),
        **counts,
        "preview": preview_of(project, table, preview),
        **column_lineage(table),
    }
    return dg.MaterializeResult(
        asset_key=table,
        metadata=metadata,
        data_version=dg.DataVersion(str(version)),
        check_results=list(check_results),
    )


def report_metadata(report: object) -> dict[str, Any]:
    """A library report as metadata, under its own field names; lists of records become tables."""
    assert dataclasses.is_dataclass(report)
    assert not isinstance(report, type)
    metadata: dict[str, Any] = {}
    for field in dataclasses.fields(report):
        value = getattr(report, field.name)
        if isinstance(value, bool | int | str):
            metadata[field.name] = value
        elif isinstance(value, float):
            metadata[field.name] = round(value, 4)
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            records = [dataclasses.asdict(item) for item in value[:_SHOWN_FAILURES]]
            metadata[field.name] = markdown_table(records)
            metadata[f"{field.name}_count"] = len(value)
        elif isinstance(value, tuple):
            metadata[f"{field.name}_count"] = len(value)
    return metadata


def preview_of(project: Project, table: str, columns: Sequence[str]) -> dg.MarkdownMetadataValue:
    """A few rows of a table, of its newest file."""
    return markdown_table(project.lake.few(table, columns, _PREVIEW_ROWS).to_pylist())


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> dg.MarkdownMetadataValue:
    """Rows as a Markdown table with short cells; a sentence when there are none."""
    if not rows:
        return dg.MetadataValue.md("No rows.")
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def record_table(rows: Sequence[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Rows as a table value, every cell as text: for failing rows, which the UI lists in full."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["rows"]
    return dg.MetadataValue.table(
        records=[dg.TableRecord({name: _text(row.get(name)) for name in names}) for row in rows],
        schema=dg.TableSchema(columns=[dg.TableColumn(name=name, type="string") for name in names]),
    )


def _cell(value: object) -> str:
    text = " ".join(_text(value).split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def _type_name(kind: pa.DataType) -> str:
    return "list of elements" if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) else str(kind)
