"""From vectors to what readers see: the candidate in the idle slot, and the alias that is moved to it."""

import dagster as dg

from assets.catalogue import (
    OWNERS,
    WRITER_POOL,
    Materialization,
    column_lineage,
    report_metadata,
    table_metadata,
    table_result,
)
from assets.freshness import POLICY, latency_metadata
from pipelines.update.snapshot.candidate import build_candidate
from pipelines.update.snapshot.promotion import promote
from resources.project import LockstepWriter

GROUP = "serve"


@dg.asset(
    deps=["documents", "chunks", "embeddings"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"milvus", "deltalake"},
    tags={"layer": "index"},
    metadata=table_metadata("index_snapshots"),
    pool=WRITER_POOL,
)
def index_snapshots(context: dg.AssetExecutionContext, writer: LockstepWriter) -> Materialization:
    """Versions of the index. This step brings the idle slot to the manifest's version and records it as candidate.

    Only rows that differ are written; the slot that readers use is not touched. With `full` the slot is built from
    nothing, without trust in the change feed, and must come to the same digest.
    """
    with writer.step(context, "index_snapshots") as step:
        report = step.done(build_candidate(step.project, run_id=step.run_id, full=writer.full, progress=step.progress))
        result = table_result(
            step.project,
            "index_snapshots",
            report,
            preview=["sequence", "snapshot_id", "kind", "status", "documents", "rows", "upserted", "deleted"],
        )
        return result._replace(value=report.snapshot_id)


@dg.asset(
    ins={"snapshot_id": dg.AssetIn("index_snapshots")},
    group_name=GROUP,
    owners=OWNERS,
    kinds={"milvus"},
    tags={"layer": "index"},
    metadata=table_metadata("live_index"),
    freshness_policy=POLICY,
    pool=WRITER_POOL,
)
def live_index(context: dg.AssetExecutionContext, snapshot_id: str, writer: LockstepWriter) -> Materialization:
    """The snapshot that readers see. This step moves the alias to the candidate: one call, after every check passed.

    If anything before it fails, readers keep the snapshot that they had. `rollback` moves the alias back.
    """
    with writer.step(context, "live_index") as step:
        report = step.done(promote(step.project, snapshot_id, run_id=step.run_id))
        rows = step.project.index().count(report.collection)
        latency = latency_metadata(step.project)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": rows, **report_metadata(report), **latency, **column_lineage("live_index")},
        data_version=dg.DataVersion(report.snapshot_id),
    )
