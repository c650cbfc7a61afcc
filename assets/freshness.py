"""How old what readers see may be: the checks of sources and deletions, by updates and by the sensors in between."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from assets.catalogue import record_table
from pipelines.project import Project
from pipelines.update.applying.approvals import DeletionRequest
from pipelines.update.upkeep.freshness import Latency, SourceFreshness, freshness, quantile, recent_latencies
from resources.project import LockstepProject

# An update confirms the index at least every 12 hours (schedules/deciding.py), also when nothing has changed.
POLICY = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=13), fail_window=timedelta(hours=26))

_SHOWN_CHANGES = 20
_FRESH = "sources_fresh"
_APPROVED = "deletions_approved"

APPROVAL_SPEC = dg.AssetCheckSpec(
    _APPROVED,
    asset="source_changes",
    description="No deletion waits for an operator. Where a source lost so many documents that the guard asks first, "
    "nothing of that source is applied until the job `approve_deletions` allows it, or the documents are back.",
)


@dg.asset_check(
    asset="live_index",
    name=_FRESH,
    description="Every source was looked at, or heard of, within its own `fresh_within_seconds`. A warning: readers "
    "see the last state that is known.",
)
def sources_fresh(context: dg.AssetCheckExecutionContext, project: LockstepProject) -> dg.AssetCheckResult:
    """Whether something was heard of every source lately."""
    with project.step(context, _FRESH) as step:
        found = freshness(step.project)
    return dg.AssetCheckResult(**_freshness_result(found))


def standing_checks(
    found: Sequence[SourceFreshness], asked: Sequence[DeletionRequest]
) -> list[dg.AssetCheckEvaluation]:
    """The same checks as they stand now, between two updates."""
    return [
        dg.AssetCheckEvaluation(asset_key=dg.AssetKey("live_index"), check_name=_FRESH, **_freshness_result(found)),
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("source_changes"), check_name=_APPROVED, **_approval_result(asked)
        ),
    ]


def approval_result(asked: Sequence[DeletionRequest]) -> dg.AssetCheckResult:
    """The check of deletions as an update found it."""
    return dg.AssetCheckResult(check_name=_APPROVED, **_approval_result(asked))


def latency_metadata(project: Project) -> dict[str, Any]:
    """How long the last changes took, in figures to plot and as a table; nothing before the first change."""
    recent = recent_latencies(project)
    middle, high = quantile(recent, 0.5), quantile(recent, 0.95)
    if middle is None or high is None:
        return {}
    return {
        "latency_p50_seconds": round(middle, 2),
        "latency_p95_seconds": round(high, 2),
        "latency_changes": sum(one.seconds is not None for one in recent),
        "latency_by_source": record_table(_by_source(recent)),
        "latest_changes": record_table([_way(one) for one in recent[:_SHOWN_CHANGES]]),
    }


def _freshness_result(found: Sequence[SourceFreshness]) -> dict[str, Any]:
    stale = [one.source for one in found if one.monitored and one.stale]
    watched = sum(one.monitored for one in found)
    told = f"Sources heard of in time: {watched - len(stale)} of {watched}."
    if stale:
        told += f" Too long ago: {', '.join(stale)}. Look at the runs of `observe_source` and the ticks of the sensors."
    return {
        "passed": not stale,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": told,
        "metadata": {"stale": len(stale), "sources": record_table([_freshness_line(one) for one in found])},
    }


def _freshness_line(one: SourceFreshness) -> dict[str, object]:
    return {
        "source": one.source,
        "heard of (s ago)": None if one.age_seconds is None else round(one.age_seconds),
        "allowed (s)": one.fresh_within_seconds,
        "listed": one.listed_at,
        "monitored": "yes" if one.monitored else "no: `monitor: false`",
        "error": one.error,
    }


def _approval_result(asked: Sequence[DeletionRequest]) -> dict[str, Any]:
    open_ = [one for one in asked if one.approved_by is None]
    told = "No deletion waits for an operator."
    if open_:
        told = "; ".join(f"{one.source}: {one.count:,} of {one.total:,} documents would be deleted" for one in open_)
        told += ". Look at the source. If they shall go: launch the job `approve_deletions` with its name, or "
        told += f"`lockstep approve {open_[0].source}`. Nothing of the source is applied before."
    return {
        "passed": not open_,
        "severity": dg.AssetCheckSeverity.ERROR,
        "description": told,
        "metadata": {"waiting": len(open_), **({"requests": record_table(asked_lines(asked))} if asked else {})},
    }


def asked_lines(asked: Sequence[DeletionRequest]) -> list[dict[str, object]]:
    """Questions of the guard as rows of a table."""
    return [
        {
            "source": one.source,
            "documents": one.count,
            "of": one.total,
            "asked": one.asked_at,
            "approved by": one.approved_by,
            "examples": list(one.examples),
        }
        for one in asked
    ]


def _by_source(recent: Sequence[Latency]) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for source in sorted({one.source for one in recent}):
        own = [one for one in recent if one.source == source]
        lines.append(
            {
                "source": source,
                "changes": len(own),
                "p50 (s)": quantile(own, 0.5),
                "p95 (s)": quantile(own, 0.95),
            }
        )
    return lines


def _way(one: Latency) -> dict[str, object]:
    return {
        "source": one.source,
        "uri": one.uri,
        "version": one.version,
        "changed at the source": one.changed_at,
        "detected": one.detected_at,
        "durable": one.durable_at,
        "searchable": one.searchable_at,
        "seconds": one.seconds,
    }
