"""From the manifest to vectors: chunks and embeddings, each made once for its content, and what could not be made."""

import dagster as dg

from assets.catalogue import (
    OWNERS,
    WRITER_POOL,
    Materialization,
    markdown_table,
    record_table,
    table_metadata,
    table_result,
)
from assets.letters import LETTER_COLUMNS, MOST_LETTERS, by_class
from pipelines.lake.dead_letters import open_letters
from pipelines.update.deriving.chunks import chunk_documents
from pipelines.update.deriving.embeddings import encode_chunks
from resources.project import LockstepProject, LockstepWriter

GROUP = "derive"


@dg.asset(
    deps=["documents", "elements"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "deltalake"},
    tags={"layer": "derived"},
    metadata=table_metadata("chunks"),
    pool=WRITER_POOL,
)
def chunks(context: dg.AssetExecutionContext, writer: LockstepWriter) -> Materialization:
    """The pieces of each content that are encoded and found, cut along its structure and within the encoder's limit.

    Keyed by content and recipe. An inserted paragraph changes only the chunks around it.
    """
    with writer.step(context, "chunks") as step:
        report = step.done(chunk_documents(step.project, run_id=step.run_id, progress=step.progress))
        return table_result(
            step.project, "chunks", report, preview=["content_hash", "ordinal", "chunk_count", "kind", "tokens"]
        )


@dg.asset(
    deps=[chunks],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "deltalake"},
    tags={"layer": "derived"},
    metadata=table_metadata("embeddings"),
    pool=WRITER_POOL,
)
def embeddings(context: dg.AssetExecutionContext, writer: LockstepWriter) -> Materialization:
    """One vector for each distinct text and model. A text that was ever encoded with this model is never encoded again.

    Committed in portions, so that an update that was killed goes on where it stopped. Only finite vectors of unit
    length are stored.
    """
    with writer.step(context, "embeddings") as step:
        report = step.done(encode_chunks(step.project, run_id=step.run_id, progress=step.progress))
        return table_result(
            step.project,
            "embeddings",
            report,
            added=report.encoded,
            unchanged=report.reused,
            hit_rate=round(report.hit_rate, 4),
            preview=["text_hash", "model_fp"],
        )


@dg.asset(
    deps=[embeddings],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "deltalake"},
    tags={"layer": "operations"},
    metadata=table_metadata("dead_letters"),
    check_specs=[
        dg.AssetCheckSpec(
            "no_open_dead_letters",
            asset="dead_letters",
            description="Every document could be processed. A warning, because the others are served, and the last "
            "good version of these is too.",
        )
    ],
)
def dead_letters(context: dg.AssetExecutionContext, project: LockstepProject) -> Materialization:
    """What could not be understood, listed, fetched, parsed, chunked or encoded, until it is resolved or discarded.

    A letter is resolved by the update in which its document succeeds or is gone. What may pass is tried again by
    itself, with growing waits; the rest when somebody asks: job `replay_dead_letters`, `lockstep dead-letters replay`.
    """
    with project.step(context, "dead_letters") as step:
        letters = open_letters(step.project.lake).sort_by([("last_seen_at", "descending")])
        total, version = step.project.lake.count("dead_letters"), step.project.lake.version("dead_letters")
    rows = letters.select(list(LETTER_COLUMNS)).slice(0, MOST_LETTERS).to_pylist()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": total,
            "table_version": version,
            "open": letters.num_rows,
            "preview": markdown_table(by_class(letters)),
            "letters": record_table(rows),
        },
        data_version=dg.DataVersion(str(version)),
        check_results=[
            dg.AssetCheckResult(
                check_name="no_open_dead_letters",
                passed=letters.num_rows == 0,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"Open dead letters: {letters.num_rows}.",
                metadata={"open": letters.num_rows, "letters": record_table(rows)},
            )
        ],
    )
