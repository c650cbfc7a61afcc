"""The versions of a document as `versions` of the room `applying` kept them, told with the snapshots that had them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import pyarrow.compute as pc

from pipelines.errors import LockstepError
from pipelines.lake import manifest, snapshots
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.applying.versions import TABLE

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DocumentVersion:
    """One state of a document. `label` is the source's own name of the version; all times are UTC.

    `changed_at` by the source's clock, `detected_at` when Lockstep first heard of it, `durable_at` when the manifest
    said so, `searchable_at` when readers first saw a snapshot that had it (for a deletion: that no longer had the
    document). `snapshot_id` is the first snapshot built with it.
    """

    version: int
    change: str
    content_hash: str
    size_bytes: int
    media_type: str
    title: str
    label: str | None
    author: str | None
    readers: tuple[str, ...]
    changed_at: datetime | None
    detected_at: datetime | None
    durable_at: datetime
    searchable_at: datetime | None
    manifest_version: int
    run_id: str
    snapshot_id: str | None
    live: bool


@dataclass(frozen=True, slots=True)
class DocumentHistory:
    """All known versions of one document, newest first."""

    source: str
    uri: str
    doc_id: str
    status: str
    versions: tuple[DocumentVersion, ...]


def history(project: Project, uri: str, source: str | None = None) -> list[DocumentHistory]:
    """The versions of every document of that uri: one a source that has it.

    Raises:
        LockstepError: no document has ever had that uri; near ones are named.
    """
    rows = project.lake.read(TABLE, where=pc.field("uri") == uri).to_pylist()
    documents = project.lake.read(manifest.TABLE, where=pc.field("uri") == uri).to_pylist()
    now = {row["source"]: row for row in documents if source in (None, row["source"])}
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if source in (None, row["source"]):
            by_source[row["source"]].append(row)
    if not by_source and not now:
        raise LockstepError(_unknown(project, uri, source))
    known = snapshots.history(project.lake, project.alias)
    readers = {row["acl_id"]: tuple(row["principals"]) for row in project.lake.read("acl_sets").to_pylist()}
    return [
        DocumentHistory(
            source=name,
            uri=uri,
            doc_id=next(iter(by_source[name] or [now[name]]))["doc_id"],
            status=now[name]["status"] if name in now else "unknown",
            versions=tuple(_told(by_source[name], known, readers)),
        )
        for name in sorted({*by_source, *now})
    ]


def _told(rows: list[Row], known: list[Snapshot], readers: dict[int, tuple[str, ...]]) -> Iterable[DocumentVersion]:
    rows = sorted(rows, key=lambda row: (row["durable_at"], row["manifest_version"]), reverse=True)
    live = snapshots.live(known)
    until: int | None = None  # the manifest version in which the document was already something else
    live_found = live is None
    for row in rows:
        since = row["manifest_version"]
        having = [
            s
            for s in known
            if s.manifest_version >= since
            and (until is None or s.manifest_version < until)
            and s.created_at >= row["durable_at"]  # not one of another manifest, which was lost since
        ]
        seen = [s.promoted_at for s in having if s.promoted_at is not None]
        is_live = not live_found and live is not None and live.manifest_version >= since
        live_found = live_found or is_live
        metadata = _object(row["metadata"])
        yield DocumentVersion(
            version=row["version"],
            change=row["change"],
            content_hash=row["content_hash"],
            size_bytes=row["size_bytes"],
            media_type=row["media_type"],
            title=row["title"],
            label=_text(metadata.get("version_label")),
            author=_text(metadata.get("author")),
            readers=readers.get(row["acl_id"], ()),
            changed_at=row["modified_at"],
            detected_at=row["detected_at"],
            durable_at=row["durable_at"],
            searchable_at=min(seen, default=None),
            manifest_version=since,
            run_id=row["run_id"],
            snapshot_id=having[0].snapshot_id if having else None,
            live=is_live,
        )
        until = since


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _unknown(project: Project, uri: str, source: str | None) -> str:
    known = project.lake.read(manifest.TABLE, ["source", "uri"]).to_pylist()
    uris = sorted({row["uri"] for row in known if source in (None, row["source"])})
    tail = uri.rpartition("/")[2].lower()
    near = [known for known in uris if tail and tail in known.lower()][:5]
    near = list(dict.fromkeys([*near, *get_close_matches(uri, uris, n=5)]))[:5]
    where = f"source {source!r}" if source else "any source"
    told = f"near ones are: {', '.join(near)}" if near else "`lockstep query` shows the addresses of what it finds"
    return f"no document of {where} has or had the uri {uri!r}; {told}"
