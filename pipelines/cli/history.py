"""`lockstep history` and `lockstep explain`: what became of a document, and where a hit comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.console import columns
from pipelines.cli.invocation import (
    config_option,
    json_option,
    open_console,
    open_project,
    principals_option,
    tenant_option,
)

if TYPE_CHECKING:
    from pipelines.update.history.versions import DocumentHistory

_SHOWN_CHARACTERS = 600


@click.command()
@click.argument("uri")
@config_option
@json_option
@click.option("--source", help="Only the document of this source; without it, one of every source that has the uri.")
def history(uri: str, config_path: Path, as_json: bool, source: str | None) -> None:
    """Show every version of the document at URI, newest first: when, what, by which run, in which snapshot."""
    from pipelines.update.history.versions import history as look

    console = open_console(as_json)
    found = look(open_project(config_path), uri, source)
    lines = [line for one in found for line in _lines(one)]
    console.result({"documents": [_plain(asdict(one)) for one in found]}, lines)


def _lines(document: DocumentHistory) -> list[str]:
    told = f"{document.uri}  ({document.source}, {document.status})"
    shown = ("version", "change", "changed at source", "detected", "durable", "searchable", "bytes", "content", "run")
    rows = [
        [
            f"{one.version}{'*' if one.live else ''}",
            one.change + (f" ({one.label})" if one.label else ""),
            *(_time(at) for at in (one.changed_at, one.detected_at, one.durable_at, one.searchable_at)),
            one.size_bytes,
            one.content_hash[:12],
            one.run_id[:12],
            one.snapshot_id or "-",
        ]
        for one in document.versions
    ]
    notes = ["* is live"] if any(one.live for one in document.versions) else []
    if any(one.change == "gap" for one in document.versions):
        notes.append("gap: what was before is not known; the manifest's change feed no longer reached back")
    return [told, *columns(rows, [*shown, "first snapshot"]), *notes] if rows else [told, "no version is kept yet"]


@click.command()
@click.argument("chunk_id")
@config_option
@json_option
@principals_option("Explain only what they may read: user:NAME, group:NAME or role:NAME; may be repeated.")
@tenant_option
def explain(chunk_id: str, config_path: Path, as_json: bool, principals: Sequence[str], tenant: str) -> None:
    """Tell where the chunk CHUNK_ID of the live index comes from; a unique beginning of the id is enough."""
    from pipelines.update.history.explain import explain as look

    console = open_console(as_json)
    found = asdict(look(open_project(config_path), chunk_id, principals=principals, tenant=tenant))
    lines = [f"chunk {found['chunk_id']}"]
    for topic in ("place", "document", "access", "parsing", "recipe", "encoding", "snapshot", "times"):
        known = {name: value for name, value in found[topic].items() if value not in (None, "", [])}
        lines += [topic, *(f"  {name.replace('_', ' '):<24}{_cell(value)}" for name, value in known.items())]
    console.result(_plain(found), [*lines, "text", *_quoted(found["text"])])


def _quoted(text: str) -> list[str]:
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return [f"  {line}" for line in cut.splitlines()]


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _time(at: datetime | None) -> str:
    return "-" if at is None else at.strftime("%Y-%m-%d %H:%M:%S")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, datetime) else value
