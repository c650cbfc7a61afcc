"""The one place where assets, checks, resources, jobs and schedules are put together.

Importing it opens no connection, reads no file and needs no variable.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets import derivation, expectations, gates, ingestion, serving, verification
from jobs import maintenance, updates
from resources.project import LockstepProject, LockstepWriter
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
            ingestion.source_changes,
            ingestion.elements,
            ingestion.manifest,
            derivation.chunks,
            derivation.embeddings,
            derivation.dead_letters,
            serving.index_snapshots,
            serving.live_index,
        ],
        asset_checks=[gates.gates, *expectations.checks, verification.matches_tables],
        jobs=[updates.incremental_update, updates.nightly_rebuild, maintenance.rollback, maintenance.verify],
        schedules=[schedules.nightly, schedules.every_quarter_hour],
        resources=resources | resource_overrides,
        # One process a run: the writer lock is held, and the checks' evidence kept, from the first step to the last.
        executor=dg.in_process_executor,
    )


defs = build_definitions()
