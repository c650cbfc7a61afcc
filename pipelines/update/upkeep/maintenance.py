"""Removing what nothing refers to any more, and keeping the tables quick to read. What is kept: see `retention`.

Rows go first, what they name afterwards, and files last; so a run that is killed leaves at most something that the next
one removes. Readers are never disturbed: the files of a table stay while somebody reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from pipelines.errors import LakeError
from pipelines.lake import files, manifest, snapshots, term_statistics
from pipelines.lake.events import TABLE as EVENTS
from pipelines.lake.lock import waiting_lock
from pipelines.lake.schemas import TABLES
from pipelines.lake.tables import Keep
from pipelines.project import Project
from pipelines.update.applying import versions
from pipelines.update.upkeep.retention import Retained, retained, spent_events

_SMALL_BYTES = 16 * 1024 * 1024
_SMALL_FILES = 16  # so many small files in a table are worth writing it anew
_DERIVED = ("term_statistics", "chunks", "embeddings", "elements")
_STALE_SECONDS = 86_400.0  # of what an update that was killed left in the staging folder
StepProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class TableUpkeep:
    """What was done for one table. Bytes are those of its folder on disk, log included."""

    table: str
    rows: int
    pruned_rows: int
    files: int
    removed_files: int
    bytes_before: int
    bytes_after: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What maintenance did, or with `dry_run` would do: files that pruned rows leave behind are then not counted."""

    dry_run: bool
    retained_snapshots: int
    pruned_snapshots: int  # that rollback can no longer bring back
    pruned_rows: int
    pruned_blobs: int
    bytes_before: int
    bytes_after: int
    reclaimed_bytes: int
    tables: tuple[TableUpkeep, ...]
    seconds: float


def maintain(
    project: Project, *, run_id: str, dry_run: bool = False, progress: StepProgress | None = None
) -> MaintenanceReport:
    """Prune, compact and clean up. The caller holds the writer lock, unless it only wants to know (`dry_run`).

    Args:
        project: whose data folder is maintained.
        run_id: recorded with each commit.
        dry_run: change nothing.
        progress: called with (tables done, tables in all).

    Raises:
        IndexUnavailable: the slots cannot be asked what they hold, and so nothing is pruned.
        LakeError: a table is damaged; what was removed before it was unneeded all the same.
    """
    started = time.perf_counter()
    if not dry_run:
        versions.catch_up(project, run_id=run_id)  # before any of the change feed goes
    kept = retained(project)
    gone = len(term_statistics.stored(project.lake) - set(kept.snapshot_ids.to_pylist()))
    before = {name: files.disk_bytes(_folder(project, name)) for name in TABLES}
    pruned = {name: _prune(project, kept, name, run_id=run_id, dry_run=dry_run) for name in (*_DERIVED, EVENTS)}
    done: list[TableUpkeep] = []
    for name in TABLES:
        if not dry_run:
            _tidy(project, name, run_id=run_id)
        done.append(_upkeep(project, kept, name, before[name], pruned.get(name, 0), dry_run=dry_run))
        if progress:
            progress(len(done), len(TABLES))
    unused = project.blobs.remove_unused(kept.named_blobs, dry_run=dry_run)
    scratch = 0 if dry_run else _clear_staging(project.home.staging)
    blob_bytes = 0 if dry_run else unused.size_bytes
    lake_after = sum(table.bytes_after for table in done)
    lake_before = sum(before.values())
    left = files.disk_bytes(project.home.blobs)
    return MaintenanceReport(
        dry_run=dry_run,
        retained_snapshots=len(kept.snapshots),
        pruned_snapshots=gone,
        pruned_rows=sum(pruned.values()),
        pruned_blobs=unused.blobs,
        bytes_before=lake_before + left + blob_bytes,
        bytes_after=lake_after + left - (unused.size_bytes if dry_run else 0),
        reclaimed_bytes=lake_before - lake_after + unused.size_bytes + scratch,
        tables=tuple(done),
        seconds=time.perf_counter() - started,
    )


def _prune(project: Project, kept: Retained, name: str, *, run_id: str, dry_run: bool) -> int:
    """Remove a table's rows that nothing kept refers to; returns how many there were."""
    lake = project.lake
    if name == EVENTS:
        with waiting_lock(project.home.events_lock):
            spent = spent_events(project, datetime.now(UTC))
            if len(spent) and not dry_run:
                return lake.rewrite(name, keep=_without("sequence", spent), run_id=run_id)
            return len(spent)
    keep, columns = _kept_rows(project, kept, name)
    rows = 0
    for batch in lake.scan(name, columns):
        rows += pc.sum(pc.invert(keep(batch))).as_py() or 0
    return lake.rewrite(name, keep=keep, run_id=run_id) if rows and not dry_run else rows


def _kept_rows(project: Project, kept: Retained, name: str) -> tuple[Keep, list[str]]:
    """Which rows of a derived table stay, and the columns that this takes."""
    if name == "term_statistics":
        candidates = [s.snapshot_id for s in snapshots.recent(project.lake, project.alias) if s.status == "candidate"]
        ids = pa.array([*kept.snapshot_ids.to_pylist(), *candidates], pa.string())
        return _within("snapshot_id", term_statistics.needed(project.lake, ids)), ["snapshot_id"]
    if name == "elements":
        return _keyed(kept, "parser_fp"), ["content_hash", "parser_fp"]
    chunks = _keyed(kept, "recipe_fp")
    if name == "chunks":
        return chunks, ["content_hash", "recipe_fp"]
    scanned = project.lake.scan("chunks", ["content_hash", "recipe_fp", "text_hash"])
    texts = [batch.filter(chunks(batch))["text_hash"] for batch in scanned]
    wanted = pc.unique(pa.chunked_array(texts, pa.string()))
    models = kept.model_fps

    def of_kept_chunks(batch: pa.RecordBatch) -> pa.Array:
        return pc.and_(pc.is_in(batch["text_hash"], value_set=wanted), pc.is_in(batch["model_fp"], value_set=models))

    return of_kept_chunks, ["text_hash", "model_fp"]


def _keyed(kept: Retained, fingerprint: str) -> Keep:
    """Rows whose content and fingerprint are kept, or whose content is kept whole."""
    keys = kept.keys
    pairs = pc.unique(pc.binary_join_element_wise(keys["content_hash"], keys[fingerprint], "/").combine_chunks())
    whole = kept.whole_contents

    def keep(batch: pa.RecordBatch) -> pa.Array:
        own = pc.binary_join_element_wise(batch["content_hash"], batch[fingerprint], "/")
        return pc.or_(pc.is_in(own, value_set=pairs), pc.is_in(batch["content_hash"], value_set=whole))

    return keep


def _within(column: str, values: pa.Array) -> Keep:
    return lambda batch: pc.is_in(batch[column], value_set=values)


def _without(column: str, values: pa.Array) -> Keep:
    return lambda batch: pc.invert(pc.is_in(batch[column], value_set=values))


def _tidy(project: Project, name: str, *, run_id: str) -> None:
    """Merge a table's small files, where there are many."""
    lake = project.lake
    small = sum(size < _SMALL_BYTES for size in lake.file_sizes(name))
    if small <= _SMALL_FILES:
        return
    if name == manifest.TABLE:
        # A commit makes a new version, and after a rollback the next update would take it for news.
        if _live_is_newest(project):
            lake.compact(name, run_id=run_id)
    elif name == EVENTS:
        with waiting_lock(project.home.events_lock):
            lake.rewrite(name, run_id=run_id)
    else:
        lake.rewrite(name, run_id=run_id)


def _live_is_newest(project: Project) -> bool:
    history = snapshots.recent(project.lake, project.alias)
    live = snapshots.live(history)
    return live is not None and all(s.manifest_version <= live.manifest_version for s in history)


def _upkeep(
    project: Project, kept: Retained, name: str, before: int, pruned_rows: int, *, dry_run: bool
) -> TableUpkeep:
    folder = _folder(project, name)
    older = kept.versions if name == manifest.TABLE else ()
    feed_since = kept.feed_since if name == manifest.TABLE else None
    try:
        unneeded = files.remove_unneeded(folder, versions=older, feed_since=feed_since, dry_run=dry_run)
    except (DeltaError, OSError, ValueError) as error:
        raise LakeError(
            f"finding the unneeded files of table {name!r} under {folder}: {error}; nothing of it was removed. Restore "
            "the folder from a backup if it is damaged, or free space, and run maintenance again"
        ) from error
    after = before - unneeded.size_bytes if dry_run else files.disk_bytes(folder)
    return TableUpkeep(
        table=name,
        rows=project.lake.count(name),
        pruned_rows=pruned_rows,
        files=len(project.lake.file_sizes(name)),
        removed_files=unneeded.files if unneeded.removed or dry_run else 0,
        bytes_before=before,
        bytes_after=after,
        note="" if unneeded.removed or dry_run else "its old files stay until the next time: somebody was reading it",
    )


def _clear_staging(folder: Path) -> int:
    """Remove what killed updates left half-written; returns its bytes."""
    size = 0
    for path in folder.glob("*.new"):
        stat = path.stat()
        if time.time() - stat.st_mtime > _STALE_SECONDS:
            path.unlink(missing_ok=True)
            size += stat.st_size
    return size


def _folder(project: Project, name: str) -> Path:
    return Path(project.lake.uri(name))
