"""Whether the parts of an installation are healthy: configuration, tables, index, freshness, dead letters, writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pipelines.errors import LockstepError, SnapshotNotFound
from pipelines.lake import dead_letters, manifest
from pipelines.lake.lock import lock_holder
from pipelines.project import Project
from pipelines.update.applying import census
from pipelines.update.applying.pending import pending
from pipelines.update.snapshot.verify import live_snapshot
from pipelines.update.upkeep.freshness import freshness, quantile, recent_latencies

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
        "pending": _pending,
        "freshness": _freshness,
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
    changes = manifest.changes_between(project.lake, snapshot.manifest_version, project.lake.version(manifest.TABLE))
    told = f"snapshot {snapshot.snapshot_id} is live with {rows} rows, built {_ago(age)} ago"
    if changes is None or changes.doc_ids:  # None: too long ago to tell
        many = "many" if changes is None else f"{len(changes.doc_ids):,}"
        return Part("index", "degraded", f"{told}; {many} documents have changed since, run `lockstep update`", details)
    return Part("index", "healthy", told, details)


def _sources(project: Project) -> Part:
    counts = census.count(project)
    configured = {source.name: counts.get(source.name, census.Count()).active for source in project.config.sources}
    empty = [name for name, count in configured.items() if not count]
    told = ", ".join(f"{name}: {count} documents" for name, count in configured.items())
    return Part("sources", "degraded" if empty else "healthy", told, {"documents": configured})


def _pending(project: Project) -> Part:
    queues = pending(project)
    figures = {
        queue.source: {
            "announced": queue.announced,
            "found": queue.found,
            "oldest_seconds": None if queue.oldest_seconds is None else round(queue.oldest_seconds, 1),
            "held": queue.held,
            "left": queue.left,
        }
        for queue in queues
    }
    held = [f"{queue.source}: {queue.held}" for queue in queues if queue.held]
    if held:
        return Part("pending", "degraded", "; ".join(held), {"sources": figures})
    behind = [queue for queue in queues if queue.left or queue.more]
    if behind:
        told = ", ".join(f"{queue.source}: {queue.found:,}" for queue in behind)
        advice = "the next update goes on; `lockstep update` applies all of it"
        return Part(
            "pending", "degraded", f"found changes wait for another update ({told}); {advice}", {"sources": figures}
        )
    waiting = sum(queue.announced + queue.found for queue in queues)
    oldest = max((queue.oldest_seconds for queue in queues if queue.oldest_seconds is not None), default=0.0)
    told = f"{waiting} changes wait, the oldest for {_ago(oldest)}" if waiting else "nothing waits"
    return Part("pending", "healthy", told, {"sources": figures})


def _freshness(project: Project) -> Part:
    found = freshness(project)
    figures = {
        one.source: {
            "contacted_at": one.contacted_at.isoformat() if one.contacted_at else None,
            "listed_at": one.listed_at.isoformat() if one.listed_at else None,
            "age_seconds": None if one.age_seconds is None else round(one.age_seconds, 1),
            "error": one.error,
        }
        for one in found
    }
    latencies = recent_latencies(project)
    middle, late = quantile(latencies, 0.5), quantile(latencies, 0.95)
    details = {"sources": figures, "seconds_to_searchable": {"p50": middle, "p95": late}}
    failing = [f"{one.source}: {one.error}" for one in found if one.error]
    stale = [f"{one.source}: {_unheard(one.age_seconds)}" for one in found if one.monitored and one.stale]
    if failing or stale:
        return Part("freshness", "degraded", "; ".join(failing + stale), details)
    told = "every source was heard of in time"
    if middle is not None and late is not None:
        told += f"; a change was searchable after {middle:.0f} s (p50), {late:.0f} s (p95)"
    return Part("freshness", "healthy", told, details)


def _unheard(seconds: float | None) -> str:
    return "never heard of yet" if seconds is None else f"not heard of for {_ago(seconds)}"


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
