"""Streaming sensors, one a kind of source that announces its changes: each keeps its sources' streams open.

A tick waits until something became durable, and requests an update. What is durable and was not requested, because a
process died in between, is found by `schedules.pending`.
"""

from dataclasses import fields
from typing import Any

import dagster as dg

from jobs.updates import incremental_update
from pipelines.sources.registry import KINDS, Kind
from pipelines.update.applying.pending import pending
from resources.following import Told, followers
from resources.project import LockstepProject
from schedules.deciding import describe_told
from schedules.requesting import decide, patience, seen_version, update_request

_NAMES = {
    "filesystem": "follow_file_changes",
    "s3": "follow_s3_events",
    "kafka": "follow_kafka",
    "webhook": "follow_webhooks",
}
_WHAT = {
    "filesystem": "the file system's own notices of changed files",
    "s3": "notifications about buckets that arrive in SQS queues",
    "kafka": "topics of change events",
    "webhook": "deliveries that `lockstep receive` has accepted",
}


def _sensor(kind: str) -> dg.SensorDefinition:
    name = _NAMES.get(kind, f"follow_{kind}")

    @dg.sensor(
        name=name,
        job_name=incremental_update.name,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=1,
        description=(
            f"Follows {_WHAT.get(kind, f'what sources of the kind {kind} announce')}: makes it durable in "
            "`change_events`, acknowledges it, looks at the documents, and requests an update. A tick says what each "
            "source brought and what is left in its stream. Switched off, it lets go of its streams within a minute."
        ),
    )
    def follow(context: dg.SensorEvaluationContext, project: LockstepProject) -> dg.SensorResult:
        opened = project.open()
        sections = [section for section in opened.config.sources if section.kind == kind and section.monitor]
        told = followers().follow(opened, sections, wait_seconds=patience(context.instance))
        text = describe_told(told)
        cursor, events = seen_version(opened), [_observation(one) for one in told if one.turned]
        if any(one.new or one.found for one in told):
            decision = decide(context.instance, opened, pending(opened))
            if decision.request:
                return dg.SensorResult(
                    run_requests=[update_request(decision, name, text)], cursor=cursor, asset_events=events
                )
            text = f"{text} - {decision.reason}"
        return dg.SensorResult(skip_reason=text, cursor=cursor, asset_events=events)

    return follow


def _observation(told: Told) -> dg.AssetObservation:
    """That a source can no longer be followed, or can be again, where its other outcomes are."""
    metadata: dict[str, Any] = {
        "source": told.source,
        "followed": told.error is None,
        "error": told.error or "",
        "again_at": "" if told.retry_at is None else told.retry_at.isoformat(timespec="seconds"),
    }
    return dg.AssetObservation("sources", metadata=metadata, description=f"Following {told.source}")


_SILENT = next(field.default for field in fields(Kind) if field.name == "stream")

sensors = [_sensor(name) for name, kind in KINDS.items() if kind.stream is not _SILENT]
