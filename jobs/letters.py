"""Trying dead letters again from the UI: one, a class, a source, or all of them."""

import dagster as dg
from pydantic import Field

from assets.catalogue import report_metadata
from pipelines.update.looking import letters
from resources.project import LockstepProject


class ReplayConfig(dg.Config):
    """Which letters: ids, or one or more conditions, or all of them."""

    # Not None: the launchpad writes only defaults that are values.
    letter_ids: list[str] = Field(default=[], description="Ids, or unique beginnings of ids.")
    error_class: str = Field(default="", description="All open letters of this error class.")
    source: str = Field(default="", description="All open letters of this source.")
    stage: str = Field(default="", description="All open letters of this stage.")
    all: bool = Field(default=False, description="All open letters.")


@dg.op(name="announce_replays")
def announce_replays(context: dg.OpExecutionContext, config: ReplayConfig, project: LockstepProject) -> None:
    """Announce the letters' documents, so that the next update looks at them again; messages are decoded anew."""
    with project.step(context, "replay_dead_letters") as step:
        found = letters.select(
            step.project,
            letter_ids=config.letter_ids,
            error_class=config.error_class,
            source=config.source,
            stage=config.stage,
            everything=config.all,
        )
        report = step.done(letters.replay(step.project, found, run_id=step.run_id))
    for reason in report.refused:
        context.log.warning(reason)
    context.log_event(dg.AssetObservation("dead_letters", metadata={**report_metadata(report), "reason": "replay"}))


@dg.job(
    name="replay_dead_letters",
    description=(
        "Let the next update try dead letters again: those of `letter_ids`, or all open ones of an `error_class`, "
        "`source` or `stage`, or `all`. Asked for twice, each is tried once; one that succeeds is resolved."
    ),
)
def replay_dead_letters() -> None:
    """Let the next update try dead letters again."""
    announce_replays()
