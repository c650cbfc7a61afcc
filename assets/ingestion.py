"""From the sources to the manifest: what changed, what the parsers found, and which documents should be searchable."""

from collections.abc import Iterator

import dagster as dg

from assets.catalogue import (
    OWNERS,
    WRITER_POOL,
    Materialization,
    markdown_table,
    record_table,
    report_metadata,
    table_metadata,
    table_result,
)
from assets.freshness import APPROVAL_SPEC, approval_result
from pipelines.lake.dead_letters import Failure
from pipelines.update.applying.approvals import requests
from pipelines.update.applying.changes import detect_changes
from pipelines.update.applying.manifest import merge_manifest
from pipelines.update.applying.parse import parse_documents
from pipelines.update.reports import SourceOutcome
from resources.project import LockstepWriter

GROUP = "ingest"

sources = dg.AssetSpec(
    "sources",
    group_name=GROUP,
    owners=OWNERS,
    kinds={"filesystem", "jsonl"},
    tags={"layer": "source"},
    description=(
        "The configured sources: folders and record files outside Lockstep. Each update observes them; "
        "the observation counts what every source holds and what changed in it."
    ),
)


@dg.asset(
    deps=[sources, "change_events"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python"},
    tags={"layer": "staging"},
    pool=WRITER_POOL,
    check_specs=[
        dg.AssetCheckSpec(
            "sources_readable",
            asset="source_changes",
            description="Every source could be read as a whole. From one that could not, nothing is inferred: "
            "its documents stay as they are. A warning, because the other sources go on.",
        ),
        APPROVAL_SPEC,
    ],
)
def source_changes(context: dg.AssetExecutionContext, writer: LockstepWriter) -> Materialization:
    """What differs between the sources and the manifest, with the changed bytes fetched into the blob folder.

    By size, time and version mark first, by content second. With `scan` every source is listed now; without, what
    waits in `change_events` is taken as it is. Deletions come only from a complete listing or from the source's own
    word, and the guard refuses to delete more of a source than the configuration allows until an operator approves.
    """
    with writer.step(context, "source_changes") as step:
        report = step.done(
            detect_changes(
                step.project,
                run_id=step.run_id,
                approve_deletions=writer.approve_deletions,
                thorough=writer.thorough or writer.full,
                scan=writer.scan,
                sources=writer.sources or None,
                progress=step.progress,
            )
        )
        asked = requests(step.project)
    outcomes = report.sources
    found = {
        "sources": markdown_table([outcome_line(o) for o in outcomes]),
        "problems": markdown_table([problem_line(p) for o in outcomes for p in o.problems][:20]),
    }
    context.log_event(dg.AssetObservation("sources", metadata=found))
    return dg.MaterializeResult(
        metadata={
            **report_metadata(report),
            "added": sum(o.added for o in outcomes),
            "changed": sum(o.changed for o in outcomes),
            "deleted": sum(o.deleted for o in outcomes),
            "unchanged": sum(o.unchanged for o in outcomes),
            **found,
        },
        check_results=[_readable(outcomes), approval_result(asked)],
    )


@dg.asset(
    deps=[source_changes],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "deltalake"},
    tags={"layer": "derived"},
    metadata=table_metadata("elements"),
    pool=WRITER_POOL,
)
def elements(context: dg.AssetExecutionContext, writer: LockstepWriter) -> Materialization:
    """What the parsers found in each content: headings, paragraphs, lists, tables, code, pages, mail headers.

    Keyed by content and parser, so that a renamed or copied document is not parsed again, and neither is one that
    failed. Each parse runs in a worker process with limits on time and memory.
    """
    with writer.step(context, "elements") as step:
        report = step.done(parse_documents(step.project, run_id=step.run_id, full=writer.full, progress=step.progress))
        return table_result(
            step.project,
            "elements",
            report,
            added=report.parsed + report.empty + report.failed,
            unchanged=report.reused,
            preview=["content_hash", "status", "error_class", "characters", "pages", "seconds"],
        )


@dg.multi_asset(
    name="manifest",
    specs=[
        dg.AssetSpec(
            "documents",
            deps=[elements],
            group_name=GROUP,
            owners=OWNERS,
            kinds={"python", "deltalake"},
            tags={"layer": "manifest"},
            metadata=table_metadata("documents"),
            description=(
                "The manifest: which documents the index should contain, in which version, and who may read them. "
                "Everything after it is derived from it. Merged in one commit, with its change feed on; a document "
                "that no longer parses stays at its last good version."
            ),
        ),
        dg.AssetSpec(
            "acl_sets",
            deps=[elements],
            group_name=GROUP,
            owners=OWNERS,
            kinds={"python", "deltalake"},
            tags={"layer": "manifest"},
            metadata=table_metadata("acl_sets"),
            description=(
                "The access sets: each is a sorted list of principals with a number. A query turns its caller into "
                "the numbers that it may read and filters by them inside the index. Append-only."
            ),
        ),
    ],
    pool=WRITER_POOL,
)
def manifest(context: dg.AssetExecutionContext, writer: LockstepWriter) -> Iterator[Materialization]:
    """Merge what was found and could be parsed into the manifest, in one commit; no change, no commit."""
    with writer.step(context, "documents") as step:
        report = step.done(merge_manifest(step.project, run_id=step.run_id))
        yield table_result(step.project, "acl_sets", report, preview=["acl_id", "tenant", "principals"])
        yield table_result(
            step.project,
            "documents",
            report,
            preview=["source", "uri", "version", "tenant", "acl_id", "media_type", "status"],
        )


def outcome_line(outcome: SourceOutcome) -> dict[str, object]:
    """How one source fared, as a row of a table."""
    return {
        "source": outcome.source,
        "added": outcome.added,
        "changed": outcome.changed,
        "deleted": outcome.deleted,
        "access changed": outcome.access_changed,
        "unchanged": outcome.unchanged,
        "left to the next update": outcome.waiting,
        "complete": outcome.complete,
        "problems": len(outcome.problems),
        "error": outcome.error,
    }


def problem_line(failure: Failure) -> dict[str, object]:
    """One problem, as a row of a table."""
    return {"source": failure.source, "uri": failure.uri, "stage": failure.stage, "error": failure.error}


def _readable(outcomes: tuple[SourceOutcome, ...]) -> dg.AssetCheckResult:
    unread = [o for o in outcomes if o.error or not o.complete]
    return dg.AssetCheckResult(
        check_name="sources_readable",
        passed=not unread,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Sources read in full: {len(outcomes) - len(unread)} of {len(outcomes)}.",
        metadata={"sources": record_table([outcome_line(o) for o in outcomes])},
    )
