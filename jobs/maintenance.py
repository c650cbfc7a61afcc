"""Jobs that build nothing new: going back to an earlier snapshot, and proving the live one."""

import dagster as dg
from pydantic import Field

from assets.catalogue import WRITER_POOL, report_metadata
from assets.verification import matches_tables
from pipelines.update import rollback as library
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
