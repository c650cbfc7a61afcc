"""How fresh the index is: when each source was last looked at, and how long documents took to become searchable."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import snapshots
from pipelines.project import Project
from pipelines.update.looking import progress

_RECENT = 500  # changes


@dataclass(frozen=True, slots=True)
class SourceFreshness:
    """When one source was last looked at in full or by its stream, and whether that is too long ago."""

    source: str
    monitored: bool
    listed_at: datetime | None
    contacted_at: datetime | None
    age_seconds: float | None  # since the last contact that went well; None: there was none
    fresh_within_seconds: float
    error: str | None

    @property
    def stale(self) -> bool:
        """Whether nothing was heard of it for longer than its configuration allows."""
        return self.age_seconds is None or self.age_seconds > self.fresh_within_seconds


@dataclass(frozen=True, slots=True)
class Latency:
    """The way of one document's change; all times are UTC.

    `changed_at` by the source, if it tells; `searchable_at` is None while it is not.
    """

    source: str
    uri: str
    version: int
    changed_at: datetime | None
    detected_at: datetime
    durable_at: datetime
    searchable_at: datetime | None

    @property
    def seconds(self) -> float | None:
        """From detected to searchable."""
        return None if self.searchable_at is None else (self.searchable_at - self.detected_at).total_seconds()


def freshness(project: Project) -> list[SourceFreshness]:
    """Every configured source."""
    now = datetime.now(UTC)
    found = []
    for section in project.config.sources:
        state = progress.read(project.home, section.name)
        last = max((at for at in (state.listed_at, state.contacted_at) if at is not None), default=None)
        found.append(
            SourceFreshness(
                source=section.name,
                monitored=section.monitor,
                listed_at=state.listed_at,
                contacted_at=state.contacted_at,
                age_seconds=None if last is None else (now - last) / timedelta(seconds=1),
                fresh_within_seconds=section.fresh_within_seconds,
                error=state.error or state.stream_error,
            )
        )
    return found


def recent_latencies(project: Project, limit: int = _RECENT) -> list[Latency]:
    """The last changes of documents, newest first."""
    columns = ["source", "uri", "version", "modified_at", "detected_at", "durable_at", "manifest_version"]
    rows = project.lake.newest("document_versions", columns, by="manifest_version", rows=limit)
    rows = rows.filter(rows["detected_at"].is_valid()).sort_by([("manifest_version", "descending")]).slice(0, limit)
    seen = _searchable(project)
    return [
        Latency(
            source=row["source"],
            uri=row["uri"],
            version=row["version"],
            changed_at=row["modified_at"],
            detected_at=row["detected_at"],
            durable_at=row["durable_at"],
            searchable_at=next((at for version, at in seen if version >= row["manifest_version"]), None),
        )
        for row in rows.to_pylist()
    ]


def quantile(latencies: list[Latency], share: float) -> float | None:
    """That quantile of the seconds from detected to searchable; None for no searchable change."""
    seconds = [latency.seconds for latency in latencies if latency.seconds is not None]
    return float(np.quantile(seconds, share)) if seconds else None


def _searchable(project: Project) -> list[tuple[int, datetime]]:
    """Manifest versions that readers saw, ascending, each with the first time that they saw it or a later one."""
    seen = pc.field("promoted_at").is_valid() & (pc.field("index_name") == project.alias)
    promoted = project.lake.read(snapshots.TABLE, ["manifest_version", "promoted_at"], where=seen)
    first = promoted.group_by("manifest_version").aggregate([("promoted_at", "min")]).sort_by("manifest_version")
    return list(zip(first["manifest_version"].to_pylist(), first["promoted_at_min"].to_pylist(), strict=True))


def as_table(latencies: list[Latency]) -> pa.Table:
    """For plots: source, and seconds from detected to durable and to searchable."""
    return pa.table(
        {
            "source": [latency.source for latency in latencies],
            "durable_seconds": [(latency.durable_at - latency.detected_at).total_seconds() for latency in latencies],
            "searchable_seconds": pa.array([latency.seconds for latency in latencies], pa.float64()),
        }
    )
