"""Step 1: look at the sources, where that is asked for, and stage everything found that is not in the manifest yet.

Looking writes to `change_events` and the blob folder alone. What was found becomes staged changes, against the rows
that the manifest has now, with today's access rules.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import MassDeletionRefused, SourceError
from pipelines.governance.access import AclRegistry
from pipelines.lake import manifest
from pipelines.lake.dead_letters import Failure
from pipelines.lake.derive import Progress
from pipelines.lake.memory import give_back
from pipelines.lake.portions import PORTION_ROWS
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.applying import census
from pipelines.update.applying.found import Applied, apply_found, as_staged
from pipelines.update.audit import write_audit
from pipelines.update.looking.contact import Beat, side_by_side
from pipelines.update.looking.letters import forget_failed_parses
from pipelines.update.looking.observe import ObserveReport, observe
from pipelines.update.reports import ChangesReport, SourceOutcome

OUTCOMES_NOTE = "sources"
_PART_ROWS = 16_384  # held as Python's own objects at a time
Row = dict[str, Any]


def detect_changes(
    project: Project,
    *,
    run_id: str,
    approve_deletions: bool = False,
    thorough: bool = False,
    scan: bool = True,
    sources: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> ChangesReport:
    """Find out what changed and stage it.

    Args:
        project: whose sources are meant.
        run_id: recorded with what is written.
        approve_deletions: the operator's word that the mass-deletion guard asks for, for every source.
        thorough: read every document and compare its bytes, instead of trusting size and time.
        scan: look at every source now, and apply everything that was found. Off: only apply what looks found before,
            of each source at most `streams.max_events_per_update` events, without contact to any source.
        sources: look only at these; None: at all.
        progress: called with (documents fetched, documents to fetch).

    Raises:
        SourceError: no source at all could be read, or the guard refused the only one.
    """
    started = time.perf_counter()
    version = project.lake.version(manifest.TABLE)
    names = [source.name for source in project.config.sources if sources is None or source.name in sources]
    looks = look_at(project, names, run_id=run_id, thorough=thorough, progress=progress) if scan else {}
    registry = AclRegistry(project.lake.read("acl_sets"))
    # Somebody who asks for the sources' state gets all of it. An update that a sensor asked for is followed by another.
    at_most = None if scan else project.config.streams.max_events_per_update
    applied = [
        apply_found(
            project,
            section,
            registry,
            approve_deletions=approve_deletions,
            relabel=scan,
            at_most=at_most,
        )
        for section in project.config.sources
    ]
    outcomes = [_outcome(one, looks.get(one.source)) for one in applied]
    if scan or any(one.refused for one in applied):
        _raise_if_none_is_usable([outcome for outcome in outcomes if outcome.source in names])
    again = [content for one in applied for content in one.parse_again]
    if again:
        forget_failed_parses(project, again, run_id)
    staged = [part for one in applied for part in one.staged]
    orphans = _orphans(project)
    if approve_deletions:
        staged += [part for name in orphans for part in _deletions(project, name)]
    outcomes += _orphan_outcomes(orphans, approve_deletions=approve_deletions)
    deleted = {outcome.source: outcome.deleted for outcome in outcomes if outcome.deleted}
    if approve_deletions and deleted:
        write_audit(project, action="approve_deletions", target=f"index:{project.alias}", detail=deleted, run_id=run_id)
    project.lake.append("acl_sets", registry.new_rows(datetime.now(UTC)), run_id=run_id)
    if staged:  # a newer time stamp alone is no reason to commit: it only saves reading the file again next time
        staged += [part for one in applied for part in one.refreshed]
    rows = pa.concat_tables([staging.STAGED.empty_table(), *staged])
    if len(rows) > PORTION_ROWS:  # in the order in which the tables of contents lie: what follows goes part by part
        rows = rows.sort_by("content_hash")
    staging.write_changes(project.home.staging, rows, manifest_version=version)
    del rows, staged
    give_back()
    write_outcomes(project.home.staging, outcomes, applied)
    reports = [look for look in looks.values() if isinstance(look, ObserveReport)]
    return ChangesReport(
        manifest_version=version,
        sources=tuple(outcomes),
        fetched=sum(look.fetched for look in reports),
        fetched_bytes=sum(look.fetched_bytes for look in reports),
        waiting=sum(one.waiting for one in applied),
        seconds=time.perf_counter() - started,
    )


def look_at(
    project: Project, names: Sequence[str], *, run_id: str, thorough: bool = False, progress: Progress | None = None
) -> dict[str, ObserveReport | BaseException]:
    """List sources side by side; of one that fails or hangs, the error."""
    counts: dict[str, tuple[int, int]] = {}

    def told(name: str, beat: Beat, done: int, total: int) -> None:
        beat()
        counts[name] = (done, total)
        if progress is not None and total:
            values = list(counts.values())
            progress(sum(d for d, t in values if t), sum(t for _, t in values))

    def work(name: str, beat: Beat) -> ObserveReport:
        return observe(project, name, run_id=run_id, thorough=thorough, progress=partial(told, name, beat))

    sections = {name: project.config.source(name) for name in names}
    found = side_by_side(
        {name: partial(work, name) for name in names},
        {name: section.stall_seconds for name, section in sections.items()},
    )
    for look in found.values():
        if isinstance(look, BaseException) and not isinstance(look, SourceError):
            raise look
    return found


def _outcome(applied: Applied, look: ObserveReport | BaseException | None) -> SourceOutcome:
    outcome = applied.outcome
    if isinstance(look, BaseException):
        return replace(outcome, complete=False, error=outcome.error or f"{type(look).__name__}: {look}")
    if look is None:
        return outcome
    unchanged = outcome.unchanged + look.unchanged
    return replace(outcome, unchanged=unchanged, complete=outcome.complete and look.complete, problems=look.problems)


def _orphans(project: Project) -> dict[str, int]:
    """Documents of sources that the configuration no longer names."""
    configured = {source.name for source in project.config.sources}
    counts = census.count(project)
    return {name: one.present for name, one in sorted(counts.items()) if one.present and name not in configured}


def _deletions(project: Project, source: str) -> Iterator[pa.Table]:
    """The staged deletions of all documents of a source."""
    where = (pc.field("source") == source) & (pc.field("status") != manifest.DELETED)
    for batch in project.lake.read(manifest.TABLE, where=where).to_batches(max_chunksize=_PART_ROWS):
        rows = [{**as_staged(known), "action": "delete"} for known in batch.to_pylist()]
        yield pa.Table.from_pylist(rows, schema=staging.STAGED)


def _orphan_outcomes(orphans: dict[str, int], *, approve_deletions: bool) -> list[SourceOutcome]:
    if approve_deletions:
        return [SourceOutcome(name, deleted=count) for name, count in orphans.items()]
    return [
        SourceOutcome(
            name,
            complete=False,
            error=f"MassDeletionRefused: source {name!r} is no longer configured, and {count:,} documents of it are "
            "still searchable; name it again in the configuration, or let them go with "
            "`lockstep update --approve-deletions`",
        )
        for name, count in orphans.items()
    ]


def _raise_if_none_is_usable(outcomes: list[SourceOutcome]) -> None:
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if errors and len(errors) == len(outcomes):
        kind = MassDeletionRefused if all(e.startswith("MassDeletion") for e in errors) else SourceError
        raise kind("\n".join(error.split(": ", 1)[1] for error in errors))


@dataclass(frozen=True, slots=True)
class FollowedTo:
    """How far an update follows one source, once its changes are merged."""

    source: str
    sequence: int
    labels: str
    settled: bool  # what the guard asked is answered and done
    approved: bool  # by the operator
    waiting: int = 0  # events that it leaves to the next update


def write_outcomes(folder: Path, outcomes: list[SourceOutcome], applied: Sequence[Applied] = ()) -> None:
    """Stage how each source fared, what failed, and how far the sources are followed by this update."""
    staging.write_note(
        folder,
        OUTCOMES_NOTE,
        {
            "outcomes": [asdict(outcome) for outcome in outcomes],
            "failures": [asdict(failure) for one in applied for failure in one.failures],
            "healed": [list(pair) for one in applied for pair in one.healed],
            "followed": [
                {
                    "source": one.source,
                    "sequence": one.through,
                    "labels": one.labels,
                    "settled": one.settled,
                    "approved": one.approved,
                    "waiting": one.waiting,
                }
                for one in applied
                if not one.refused
            ],
        },
    )


def read_outcomes(folder: Path) -> tuple[list[SourceOutcome], list[Failure]]:
    """How each source fared in this update, and the failures that it has to put on record."""
    note = staging.read_note(folder, OUTCOMES_NOTE)
    outcomes = []
    for row in note.get("outcomes", ()):
        problems = tuple(Failure(**problem) for problem in row["problems"])
        outcomes.append(SourceOutcome(**{**row, "problems": problems}))
    return outcomes, [Failure(**failure) for failure in note.get("failures", ())]


def read_followed(folder: Path) -> tuple[list[FollowedTo], set[tuple[str, str]]]:
    """How far the sources are followed by this update, and (source, uri) of what is no longer failing there."""
    note = staging.read_note(folder, OUTCOMES_NOTE)
    healed = {(source, uri) for source, uri in note.get("healed", ())}
    return [FollowedTo(**row) for row in note.get("followed", ())], healed
