"""How many documents each source has in the manifest, counted forward from merge to merge instead of anew each time.

A convenience: where the record is lost, or is of another version of the manifest, the documents are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import manifest
from pipelines.project import Project
from pipelines.update import staging

_NOTE = "census"


@dataclass(frozen=True, slots=True)
class Count:
    """Documents of one source. `present`: not deleted; `quarantined`: without their newest version, or without any."""

    active: int = 0
    present: int = 0
    quarantined: int = 0

    def plus(self, other: Count, sign: int = 1) -> Count:
        """The sum, or the difference."""
        mine, others = asdict(self), asdict(other)
        return Count(**{name: mine[name] + sign * others[name] for name in mine})


def count(project: Project) -> dict[str, Count]:
    """The documents of every source that the manifest has ever had, by its name."""
    note = staging.read_note(project.home.staging, _NOTE)
    if note.get("of") == _of(project):
        return {name: Count(**values) for name, values in note["sources"].items()}
    return _counted(project)


def carry(project: Project, before: Mapping[str, Count], changed: Mapping[str, Count]) -> dict[str, Count]:
    """The counts after a merge, put on record.

    Args:
        project: whose manifest was merged.
        before: the counts of the version that it had.
        changed: by how much it moved each source's counts.
    """
    counts = dict(before)
    for source, by in changed.items():
        counts[source] = counts.get(source, Count()).plus(by)
    sources = {name: asdict(one) for name, one in counts.items()}
    staging.write_note(project.home.staging, _NOTE, {"of": _of(project), "sources": sources})
    return counts


def of_row(row: Mapping[str, Any] | None) -> Count:
    """What one row of the manifest counts for."""
    if row is None:
        return Count()
    return Count(
        active=int(row["status"] == manifest.ACTIVE),
        present=int(row["status"] != manifest.DELETED),
        quarantined=int(row["quarantined_hash"] is not None),
    )


def total(counts: Mapping[str, Count]) -> Count:
    """Of all sources together."""
    found = Count()
    for one in counts.values():
        found = found.plus(one)
    return found


def _of(project: Project) -> list[object]:
    lake = project.lake
    return [lake.identity(manifest.TABLE), lake.version(manifest.TABLE)]


def _counted(project: Project) -> dict[str, Count]:
    rows = project.lake.read(manifest.TABLE, ["source", "status", "quarantined_hash"])
    quarantined = rows.filter(rows["quarantined_hash"].is_valid())
    by_status = rows.group_by(["source", "status"]).aggregate([([], "count_all")]).to_pylist()
    waiting: Counter[str] = Counter()
    for row in quarantined["source"].value_counts().to_pylist() if len(quarantined) else []:
        waiting[row["values"]] = row["counts"]
    counts: dict[str, Count] = {name: Count(quarantined=number) for name, number in waiting.items()}
    for row in by_status:
        number = int(row["count_all"])
        one = Count(
            active=number * (row["status"] == manifest.ACTIVE), present=number * (row["status"] != manifest.DELETED)
        )
        counts[row["source"]] = counts.get(row["source"], Count()).plus(one)
    return counts


def recently_deleted(project: Project, source: str, since: Any) -> int:
    """How many documents of a source were deleted after that time."""
    gone = project.lake.after(manifest.TABLE, ["source", "status"], by="deleted_at", value=since)
    ours = pc.and_(pc.equal(gone["source"], source), pc.equal(gone["status"], manifest.DELETED))
    return int(pc.sum(pc.cast(ours, pa.int64())).as_py() or 0)
