"""The queue between the sources and the index: what was announced or found and is not applied yet."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from assets.catalogue import OWNERS, record_table, table_metadata
from pipelines.update.applying.pending import SourcePending

change_events = dg.AssetSpec(
    "change_events",
    deps=["sources"],
    group_name="ingest",
    owners=OWNERS,
    kinds={"deltalake", "kafka", "sqs"},
    tags={"layer": "queue"},
    metadata=table_metadata("change_events"),
    description=(
        "Everything that streams announced and looks found, durable before any offset or cursor moves. An update "
        "applies what is new in it. The sensors observe it: how much waits, since when, and what holds it up."
    ),
)


def queue_observation(pending: Sequence[SourcePending]) -> dg.AssetObservation:
    """Depth, age and holds of the queue, in total for the plots and by source as a table."""
    ages = [one.oldest_seconds for one in pending if one.oldest_seconds is not None]
    return dg.AssetObservation(
        "change_events",
        metadata={
            "to_look_at": sum(one.announced for one in pending),
            "to_apply": sum(one.found for one in pending),
            "left_by_the_last_update": sum(one.left for one in pending),
            "oldest_seconds": round(max(ages, default=0.0), 1),
            "held_sources": sum(one.held is not None for one in pending),
            "resting_sources": sum(one.resting_until is not None for one in pending),
            "sources": record_table([_line(one) for one in pending]),
        },
    )


def _line(one: SourcePending) -> dict[str, object]:
    return {
        "source": one.source,
        "to look at": one.announced,
        "to apply": one.found,
        "oldest (s)": one.oldest_seconds,
        "held": one.held,
        "left alone until": one.resting_until,
    }
