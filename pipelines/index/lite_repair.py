"""Looks over a Milvus Lite data folder before it is opened: Lite itself opens what is half there, and serves that.

What a kill in the middle of a step leaves is finished; a collection that lost files is set aside, so that the next
update builds it again from the tables. Used by the server process, before it answers anybody.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WAL = re.compile(r"^wal_(?:data|delta)_(\d+)\.arrow$")


@dataclass(frozen=True, slots=True)
class SetAside:
    """A collection that cannot be served, and why."""

    collection: str
    reason: str


def collections_folder(data: Path) -> Path:
    """Where Lite keeps its collections."""
    return data / "collections"


def look_over(data: Path, aside: Path) -> list[SetAside]:
    """Finish what was interrupted and move damaged collections to `aside`; call before Lite opens `data`."""
    problems = []
    folder = collections_folder(data)
    for collection in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not collection.is_dir():
            continue
        reason = _damage(collection)
        if reason is None:
            _forget_flushed_log(collection)
        else:
            problems.append(set_aside(collection, aside, reason))
    aliases = data / "aliases.json"
    if aliases.exists() and _read(aliases) is None:
        aliases.unlink()
        problems.append(SetAside("(aliases)", f"{aliases.name} could not be read; the next update points them again"))
    return problems


def set_aside(collection: Path, aside: Path, reason: str) -> SetAside:
    """Move a collection's folder out of the way; of one name only the latest is kept."""
    aside.mkdir(parents=True, exist_ok=True)
    target = aside / collection.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(collection, target)
    return SetAside(collection.name, reason)


def _damage(collection: Path) -> str | None:
    schema = _read(collection / "schema.json")
    if schema is None:
        return "its schema is missing or unreadable"
    manifest = collection / "manifest.json"
    if not manifest.exists():
        # Lite writes it with the first flush: none is right for a young collection only.
        written = any((collection / "partitions").rglob("*.parquet")) if (collection / "partitions").is_dir() else False
        return "its manifest is missing" if written else None
    content = _read(manifest)
    if content is None:
        return "its manifest is unreadable"  # Lite would go back to the manifest before, and lose what came between
    missing = [
        name
        for partition, files in content.get("partitions", {}).items()
        for name in (*files.get("data_files", ()), *files.get("delta_files", ()))
        if not (collection / "partitions" / partition / name).is_file()
    ]
    return f"{len(missing)} of its data files are missing, {missing[0]} among them" if missing else None


def _forget_flushed_log(collection: Path) -> None:
    """Remove write-ahead logs whose rows are in data files already.

    Lite commits a flush, and with it the number of the next log, before it removes the old one. Killed between the
    two it would replay the old log, and return every row of it twice.
    """
    manifest = _read(collection / "manifest.json") or {}
    active = manifest.get("active_wal_number")
    logs = collection / "wal"
    if active is None or not logs.is_dir():
        return
    for log in logs.iterdir():
        match = _WAL.match(log.name)
        if match and int(match[1]) < active:
            log.unlink()


def expected_rows(properties: dict[str, Any], key: str) -> int | None:
    """Rows that a collection's own record says it holds, when it says that it is complete."""
    try:
        state = json.loads(properties.get(key) or "null")
    except json.JSONDecodeError:
        return None
    if not isinstance(state, dict) or state.get("building") or not isinstance(state.get("rows"), int):
        return None
    return int(state["rows"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None
