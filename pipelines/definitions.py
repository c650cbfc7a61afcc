"""The one place where assets, checks, resources, jobs and schedules are put together.

Importing it opens no connection, reads no file and needs no variable.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets import derivation, expectations, freshness, gates, ingestion, planning, queue, serving, verification
from jobs import approvals, letters, maintenance, observation, updates
from jobs import planning as planning_jobs
from resources.project import LockstepProject, LockstepWriter
from schedules import following, listing, pending
from schedules import updates as schedules


def build_definitions(**resource_overrides: Any) -> dg.Definitions:
    """The code location, with resources replaced by name: `project`, `writer`, `io_manager`."""
    resources: dict[str, Any] = {
        "project": LockstepProject(),
        "writer": LockstepWriter(),
        # Named, so that a run in the command line's process keeps the snapshot's id where a run of the UI finds it.
        "io_manager": dg.FilesystemIOManager(),
    }
    unknown = sorted(set(resource_overrides) - set(resources))
    if unknown:
        raise TypeError(f"no resource is named {', '.join(unknown)}; there are: {', '.join(resources)}")
    return dg.Definitions(
        assets=[
            ingestion.sources,
            queue.change_events,
            ingestion.source_changes,
            ingestion.elements,
            ingestion.manifest,
            derivation.chunks,
            derivation.embeddings,
            derivation.dead_letters,
            serving.index_snapshots,
            serving.live_index,
            planning.update_plan,
        ],
        asset_checks=[gates.gates, *expectations.checks, verification.matches_tables, freshness.sources_fresh],
        jobs=[
            updates.incremental_update,
            updates.nightly_rebuild,
            observation.observe_source,
            planning_jobs.plan,
            approvals.approve_deletions,
            maintenance.rollback,
            maintenance.verify,
            maintenance.maintenance,
            letters.replay_dead_letters,
        ],
        schedules=[schedules.nightly, schedules.every_quarter_hour, schedules.weekly],
        sensors=[*following.sensors, listing.list_sources, pending.pending_changes],
        resources=resources | resource_overrides,
        # One process a run: the writer lock is held, and the checks' evidence kept, from the first step to the last.
        executor=dg.in_process_executor,
    )


defs = build_definitions()
