"""What one step hands to the next: small files under the staging folder, each replaced as a whole.

They belong to one manifest version. A step that finds the manifest elsewhere refuses, so that an interrupted
update can never apply what it saw long ago.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.errors import LakeError, ManifestMoved
from pipelines.lake.schemas import TIMESTAMP

CANDIDATE = "candidate"
"""The note that says which documents the candidate's build touched, for the gates."""

STAGED = pa.schema(
    [
        pa.field("action", pa.string(), nullable=False),  # content | attributes | delete
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("tenant", pa.string(), nullable=False),
        pa.field("acl_id", pa.int64(), nullable=False),
        pa.field("classification", pa.string(), nullable=False),
        pa.field("media_type", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("modified_at", TIMESTAMP),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("detected_at", TIMESTAMP),
    ]
)

_CHANGES = "changes.arrow"
_NOTES = "notes.json"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A scratch file that takes the place of `path` when the block ends well."""
    temporary = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise LakeError(
            f"staging {path}: {error}; free space on that disk and make the folder writable, then run the update again"
        ) from error


def write_changes(folder: Path, rows: pa.Table, *, manifest_version: int) -> None:
    """Replace the staged changes."""
    table = rows.cast(STAGED).replace_schema_metadata({"manifest_version": str(manifest_version)})
    with (
        _replacing(folder / _CHANGES) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def read_changes(folder: Path, *, manifest_version: int) -> pa.Table:
    """The staged changes.

    Raises:
        LakeError: there are none.
        ManifestMoved: they were found against another version of the manifest.
    """
    try:
        with pa.memory_map(str(folder / _CHANGES)) as file:
            table = pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowException) as error:
        raise LakeError(
            f"no staged changes under {folder} ({error}); run the whole update, not one step of it"
        ) from error
    found = int((table.schema.metadata or {}).get(b"manifest_version", b"-2"))
    if found != manifest_version:
        raise ManifestMoved(
            f"the staged changes under {folder} were found against manifest version {found}, the manifest is now at "
            f"{manifest_version}; run the whole update again"
        )
    return table.replace_schema_metadata(None)


def write_note(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """Replace one small JSON record."""
    with _replacing(folder / f"{name}.{_NOTES}") as temporary:
        temporary.write_text(json.dumps(value), encoding="utf-8")


def read_note(folder: Path, name: str) -> dict[str, Any]:
    """That record; empty if there is none."""
    try:
        value = json.loads((folder / f"{name}.{_NOTES}").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
