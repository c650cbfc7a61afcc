"""Whether the parts of an installation are healthy: configuration, tables, index, freshness, dead letters, writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow.compute as pc

from pipelines.errors import LockstepError, SnapshotNotFound
from pipelines.lake import dead_letters, manifest
from pipelines.lake.lock import lock_holder
from pipelines.update.project import Project
from pipelines.update.verify import live_snapshot

Health = Literal["healthy", "degraded", "unhealthy"]
_ORDER: tuple[Health, ...] = ("healthy", "degraded", "unhealthy")


@dataclass(frozen=True, slots=True)
class Part:
    """One part's health, a sentence for people, and figures for scripts."""

    name: str
    health: Health
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Status:
    """All parts; as a whole as healthy as the worst of them."""

    parts: tuple[Part, ...]

    @property
    def health(self) -> Health:
        """The worst part's."""
        return max((part.health for part in self.parts), key=_ORDER.index)


def status(project: Project) -> Status:
    """Look at every part; one that raises is unhealthy, with its own message."""
    looks: dict[str, Callable[[Project], Part]] = {
        "tables": _tables,
        "index": _index,
        "sources": _sources,
        "dead_letters": _dead_letters,
        "writer": _writer,
    }
    parts = []
    for name, look in looks.items():
        try:
            parts.append(look(project))
        except LockstepError as error:
            parts.append(Part(name, "unhealthy", str(error)))
    return Status(tuple(parts))


def _tables(project: Project) -> Part:
    versions = {name: version for name, version in project.lake.versions().items() if version >= 0}
    if not versions:
        return Part("tables", "degraded", "nothing was built yet; run `lockstep update`", {"versions": {}})
    return Part("tables", "healthy", f"{len(versions)} tables are readable", {"versions": versions})


def _index(project: Project) -> Part:
    if project.lake.version("index_snapshots") < 0:
        return Part("index", "unhealthy", "there is no snapshot yet; run `lockstep update`")
    try:
        snapshot = live_snapshot(project)
    except SnapshotNotFound as error:
        return Part("index", "unhealthy", str(error))
    rows = project.index().count(snapshot.collection)
    age = (datetime.now(UTC) - snapshot.created_at).total_seconds()
    details = {
        "snapshot_id": snapshot.snapshot_id,
        "rows": rows,
        "documents": snapshot.documents,
        "manifest_version": snapshot.manifest_version,
        "age_seconds": round(age, 1),
    }
    if rows != snapshot.rows:
        told = f"snapshot {snapshot.snapshot_id} should have {snapshot.rows} rows and has {rows}; run `lockstep verify`"
        return Part("index", "unhealthy", told, details)
    behind = project.lake.version(manifest.TABLE) - snapshot.manifest_version
    told = f"snapshot {snapshot.snapshot_id} is live with {rows} rows, built {_ago(age)} ago"
    if behind:
        return Part("index", "degraded", f"{told}; the manifest is {behind} versions ahead of it", details)
    return Part("index", "healthy", told, details)


def _sources(project: Project) -> Part:
    documents = project.lake.read(manifest.TABLE, ["source", "status"])
    active = documents.filter(pc.equal(documents["status"], manifest.ACTIVE))
    counts = {row["values"]: row["counts"] for row in active["source"].value_counts().to_pylist()}
    configured = {source.name: counts.get(source.name, 0) for source in project.config.sources}
    empty = [name for name, count in configured.items() if not count]
    told = ", ".join(f"{name}: {count} documents" for name, count in configured.items())
    return Part("sources", "degraded" if empty else "healthy", told, {"documents": configured})


def _dead_letters(project: Project) -> Part:
    letters = dead_letters.open_letters(project.lake)
    if not letters.num_rows:
        return Part("dead_letters", "healthy", "none is open", {"open": 0})
    kinds = {row["values"]: row["counts"] for row in letters["error_class"].value_counts().to_pylist()}
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return Part(
        "dead_letters", "degraded", f"{letters.num_rows} open ({told})", {"open": letters.num_rows, "kinds": kinds}
    )


def _writer(project: Project) -> Part:
    holder = lock_holder(project.home.writer_lock)
    if holder is None:
        return Part("writer", "healthy", "no update is running", {"running": False})
    return Part("writer", "healthy", f"running: {holder}", {"running": True})


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def as_json(found: Status) -> dict[str, Any]:
    """For scripts: the whole, and every part by name."""
    return {
        "status": found.health,
        "parts": {part.name: {"status": part.health, "message": part.message, **part.details} for part in found.parts},
    }
