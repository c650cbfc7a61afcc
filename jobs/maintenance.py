"""Jobs that build nothing new: going back, proving what is live, and removing what is unneeded."""

import dagster as dg
from pydantic import Field

from assets.catalogue import WRITER_POOL, report_metadata
from assets.maintenance import maintenance_metadata, table_observations
from assets.verification import matches_tables
from pipelines.update.snapshot import rollback as library
from pipelines.update.upkeep import maintenance as upkeep
from resources.project import LockstepWriter


class RollbackConfig(dg.Config):
    """Where to go back to."""

    # Not None: the launchpad writes only defaults that are values.
    snapshot_id: str = Field(default="", description="The snapshot to make live; empty: the one before the live one.")


@dg.op(name="move_alias_back", pool=WRITER_POOL, tags={"kind": "milvus"})
def move_alias_back(context: dg.OpExecutionContext, config: RollbackConfig, writer: LockstepWriter) -> None:
    """Make an earlier snapshot live: the given one, or the one before the live one.

    A snapshot that is still in a slot comes back at once; any other is first built again from the tables.
    """
    with writer.step(context, "rollback") as step:
        report = step.done(
            library.rollback(step.project, config.snapshot_id or None, run_id=step.run_id, progress=step.progress)
        )
    context.log_event(dg.AssetMaterialization("live_index", metadata={**report_metadata(report), "reason": "rollback"}))


@dg.job(
    name="rollback",
    description=(
        "Move the alias back to an earlier snapshot (config `snapshot_id`; without it, the one before the live one). "
        "It stays live until an update finds something new in the sources."
    ),
)
def rollback() -> None:
    """Move the alias back to an earlier snapshot."""
    move_alias_back()


verify = dg.define_asset_job(
    "verify",
    selection=dg.AssetSelection.checks(matches_tables),
    description="Read the live index back in full and compare its digest with the tables. Writes nothing.",
)


class MaintenanceConfig(dg.Config):
    """Whether to do it or only to tell."""

    dry_run: bool = Field(default=False, description="Only tell what would go, and change nothing.")


@dg.op(name="prune_and_compact", pool=WRITER_POOL, tags={"kind": "deltalake"})
def prune_and_compact(context: dg.OpExecutionContext, config: MaintenanceConfig, writer: LockstepWriter) -> None:
    """Remove what no retained snapshot, slot, open dead letter or event refers to, and compact the tables.

    The updates go on afterwards as before, and readers notice nothing: a table's files stay while somebody reads it.
    """
    with writer.step(context, "maintenance") as step:
        report = step.done(
            upkeep.maintain(step.project, run_id=step.run_id, dry_run=config.dry_run, progress=step.progress)
        )
        found = maintenance_metadata(report)
        events = table_observations(step.project, report)
    context.add_output_metadata(found)
    for event in events:
        context.log_event(event)


@dg.job(
    name="maintenance",
    description=(
        "Prune what nothing refers to any more, compact small files and remove unneeded ones. What `retention` keeps "
        "can still be brought back, and a slot that lags is still brought up by difference. `dry_run` only tells."
    ),
)
def maintenance() -> None:
    """Prune, compact and clean up."""
    prune_and_compact()
