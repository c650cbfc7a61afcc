"""`lockstep approve`: the operator's answer to the guard against mass deletion."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipelines.cli.invocation import config_option, json_option, open_console, open_project
from pipelines.identity import fingerprint


@click.command()
@click.argument("source", required=False)
@config_option
@json_option
def approve(source: str | None, config_path: Path, as_json: bool) -> None:
    """Allow the deletions in SOURCE that the guard stopped; without SOURCE, list what waits for an answer.

    Exactly the documents that were shown may go, with the next update. If others are missing by then, it asks again.
    """
    from pipelines.update.applying.approvals import DeletionRequest, requests
    from pipelines.update.applying.approvals import approve as allow
    from pipelines.update.audit import actor

    console = open_console(as_json)
    project = open_project(config_path)

    def told(request: DeletionRequest) -> dict[str, object]:
        return {
            "source": request.source,
            "count": request.count,
            "total": request.total,
            "examples": list(request.examples),
            "asked_at": request.asked_at.isoformat(),
            "approved_by": request.approved_by,
        }

    if source is None:
        waiting = requests(project)
        lines = [
            f"{request.source}: {request.count:,} of {request.total:,} documents would be deleted, for instance "
            f"{', '.join(request.examples[:3])}"
            + (f" (approved by {request.approved_by})" if request.approved_by else "")
            for request in waiting
        ]
        console.result({"requests": [told(request) for request in waiting]}, lines or ["nothing waits for approval"])
        return
    run_id = "cli-" + fingerprint("approve", {"pid": os.getpid(), "random": os.urandom(8)})[:12]
    request = allow(project, source, by=actor(), run_id=run_id)
    console.result(
        told(request),
        [f"{request.count:,} documents of {request.source} may go; the next update deletes them"],
    )
