"""Step 1: list every source, compare with the manifest, fetch what may have changed, and stage the changes.

Nothing visible is written: bytes go to the blob folder, new access sets to their table (no document names them yet),
and the changes to the staging folder.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import MassDeletionRefused, SourceError
from pipelines.governance.access import AclRegistry, SourceLabels
from pipelines.identity import content_hash, doc_id
from pipelines.lake import manifest
from pipelines.lake.dead_letters import Failure
from pipelines.lake.derive import Progress
from pipelines.parsing.media_types import detect_media_type
from pipelines.sources.base import Fetched, Listing, Source
from pipelines.sources.detect import Decision, decide
from pipelines.sources.registry import open_source
from pipelines.sources.section import SourceSection
from pipelines.update import staging
from pipelines.update.audit import write_audit
from pipelines.update.project import Project
from pipelines.update.reports import ChangesReport, SourceOutcome

OUTCOMES_NOTE = "sources"
_HEAD_BYTES = 8_192
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Examined:
    """One source, listed and compared; when it could not be read, the decision is about access rules alone."""

    config: SourceSection
    source: Source
    labels: SourceLabels
    previous: pa.Table
    decision: Decision
    outcome: SourceOutcome


@dataclass(frozen=True, slots=True)
class Change:
    """One staged row, and its bytes where they were read: also of a known document, whose blob may have been lost."""

    row: Row
    known: Row | None  # the document's row in the manifest, unless it is new
    content: bytes | None
    looked_at: bool = False  # its bytes were read


def detect_changes(
    project: Project,
    *,
    run_id: str,
    approve_deletions: bool = False,
    thorough: bool = False,
    progress: Progress | None = None,
) -> ChangesReport:
    """Find out what changed and fetch it.

    Args:
        project: whose sources are listed.
        run_id: recorded with what is written.
        approve_deletions: the operator's word that the mass-deletion guard asks for.
        thorough: read every document and compare its bytes, instead of trusting size and time.
        progress: called with (documents fetched, documents to fetch).

    Raises:
        SourceError: no source at all could be read, or the guard refused the only one.
    """
    started = time.perf_counter()
    lake = project.lake
    version = lake.version(manifest.TABLE)
    registry = known_sets(project)
    examined = examine(project, registry, approve_deletions=approve_deletions, thorough=thorough)
    _raise_if_none_is_usable(examined)
    rows: list[Row] = []
    refreshed: list[Row] = []
    outcomes: list[SourceOutcome] = []
    total = sum(len(one.decision.look) for one in examined)
    fetched = fetched_bytes = 0
    for one in examined:
        outcome = one.outcome
        failures: list[Failure] = []
        for change in fetch_changes(one, failures):
            if change.content is not None:
                project.blobs.put(change.content)
                fetched_bytes += len(change.content)
            outcome = tally(outcome, change)
            if change.row["action"] == "refresh":
                refreshed.append({**change.row, "action": "attributes"})
            else:
                rows.append(change.row)
            if change.looked_at:
                fetched += 1
                if progress:
                    progress(fetched, total)
        outcomes.append(replace(outcome, problems=(*outcome.problems, *failures)))
    orphans = _orphans(project)
    if approve_deletions:
        rows += [{**_as_staged(known), "action": "delete"} for known in orphans]
    outcomes += _orphan_outcomes(orphans, approve_deletions=approve_deletions)
    deleted = sum(outcome.deleted for outcome in outcomes)
    if approve_deletions and deleted:
        detail = {outcome.source: outcome.deleted for outcome in outcomes if outcome.deleted}
        write_audit(project, action="approve_deletions", target=f"index:{project.alias}", detail=detail, run_id=run_id)
    lake.append("acl_sets", registry.new_rows(datetime.now(UTC)), run_id=run_id)
    if rows:  # a newer time stamp alone is no reason to commit: it only saves reading the file again next time
        rows += refreshed
    staging.write_changes(
        project.home.staging, pa.Table.from_pylist(rows, schema=staging.STAGED), manifest_version=version
    )
    write_outcomes(project.home.staging, outcomes)
    return ChangesReport(
        manifest_version=version,
        sources=tuple(outcomes),
        fetched=fetched,
        fetched_bytes=fetched_bytes,
        seconds=time.perf_counter() - started,
    )


def known_sets(project: Project) -> AclRegistry:
    """The access sets of the table; an id that a document carries is never given to another set, even if lost there."""
    ids = project.lake.read(manifest.TABLE, ["acl_id"])["acl_id"]
    return AclRegistry(project.lake.read("acl_sets"), taken=pc.max(ids).as_py() or 0)


def examine(
    project: Project, registry: AclRegistry, *, approve_deletions: bool, thorough: bool = False
) -> list[Examined]:
    """List every source and compare it with the manifest; one that fails stops no other."""
    documents = project.lake.read(manifest.TABLE)
    examined = []
    for config in project.config.sources:
        source = open_source(config, project.surroundings())
        labels = SourceLabels(config, registry)
        previous = documents.filter(pc.equal(documents["source"], config.name))
        try:
            listing = source.list()
            decision = decide(
                previous,
                listing,
                project.config.guard,
                labels=labels,
                source=config.name,
                approve_deletions=approve_deletions,
                thorough=thorough,
            )
            outcome = _outcome(config.name, listing, decision)
        except SourceError as error:
            outcome = SourceOutcome(config.name, complete=False, error=f"{type(error).__name__}: {error}")
            # Today's access rules hold for the documents of a source that cannot be read, too.
            unread = Listing.unread(str(error))
            decision = decide(previous, unread, project.config.guard, labels=labels, source=config.name)
        examined.append(Examined(config, source, labels, previous, decision, outcome))
    return examined


def _orphans(project: Project) -> list[Row]:
    """Documents of sources that the configuration no longer names."""
    configured = [source.name for source in project.config.sources]
    where = ~pc.field("source").isin(configured) & (pc.field("status") != manifest.DELETED)
    rows: list[Row] = project.lake.read(manifest.TABLE, where=where).to_pylist()
    return rows


def _orphan_outcomes(orphans: list[Row], *, approve_deletions: bool) -> list[SourceOutcome]:
    counts = Counter(row["source"] for row in orphans)
    if approve_deletions:
        return [SourceOutcome(name, deleted=count) for name, count in sorted(counts.items())]
    return [
        SourceOutcome(
            name,
            complete=False,
            error=f"MassDeletionRefused: source {name!r} is no longer configured, and {count:,} documents of it are "
            "still searchable; name it again in the configuration, or let them go with "
            "`lockstep update --approve-deletions`",
        )
        for name, count in sorted(counts.items())
    ]


def fetch_changes(one: Examined, failures: list[Failure]) -> Iterator[Change]:
    """The changes of one source, one document in memory at a time; what cannot be read goes to `failures`.

    A document that was looked at and had not changed comes with the action "refresh": its time stamp may be believed
    from now on.
    """
    name = one.config.name
    previous = {row["doc_id"]: row for row in _rows_of(one.previous, one.decision)}
    for row in one.decision.deleted.to_pylist():
        known = previous[row["doc_id"]]
        yield Change({**_as_staged(known), "action": "delete"}, known, None)
    looked = {row["uri"]: row for row in one.decision.look.to_pylist()}
    relabelled = {row["uri"]: row for row in one.decision.relabelled.to_pylist()}
    for uri, row in relabelled.items():
        if uri not in looked:
            yield _relabelled(previous[row["doc_id"]], row)
    for answer in one.source.fetch(list(looked)):
        if not isinstance(answer, Fetched):
            failures.append(
                Failure(name, answer.uri, "fetch", answer.error_class, answer.message, transient=answer.transient)
            )
            if answer.uri in relabelled:  # its bytes stay as they were served, its readers do not
                row = relabelled[answer.uri]
                yield _relabelled(previous[row["doc_id"]], row)
            continue
        look = looked[answer.uri]
        yield _fetched(one, look, answer, previous.get(look["doc_id"] or ""))


def _relabelled(known: Row, labels: Row) -> Change:
    return Change({**_as_staged(known), **labels, "action": "attributes"}, known, None)


def _fetched(one: Examined, look: Row, answer: Fetched, known: Row | None) -> Change:
    digest = content_hash(answer.content)
    row = {
        "doc_id": doc_id(one.config.name, answer.uri),
        "source": one.config.name,
        "uri": answer.uri,
        "tenant": one.config.tenant,
        "acl_id": look["acl_id"],
        "classification": one.config.classification,
        "media_type": answer.media_type or detect_media_type(answer.content[:_HEAD_BYTES], answer.name),
        "size_bytes": answer.size_bytes,
        "etag": answer.etag,
        "modified_at": answer.modified_at,
        "content_hash": digest,
        "metadata": json.dumps(dict(answer.metadata), ensure_ascii=False, sort_keys=True, default=str),
        "action": "content",
    }
    if known is None or known["status"] == manifest.DELETED:
        return Change(row, known, answer.content, looked_at=True)
    newest = known["quarantined_hash"] or known["content_hash"]
    if digest != newest:
        return Change(row, known, answer.content, looked_at=True)
    labels = any(known[name] != row[name] for name in ("acl_id", "tenant", "classification", "size_bytes", "etag"))
    if labels or known["modified_at"] not in (None, row["modified_at"]):
        return Change({**row, "action": "attributes"}, known, answer.content, looked_at=True)
    return Change({**row, "action": "refresh"}, known, answer.content, looked_at=True)


def _rows_of(previous: pa.Table, decision: Decision) -> list[Row]:
    """Rows of the manifest that the decision touches."""
    touched = [decision.deleted["doc_id"], decision.relabelled["doc_id"], decision.look["doc_id"].drop_null()]
    wanted = pa.chunked_array([chunk for column in touched for chunk in column.chunks], pa.string())
    rows: list[Row] = previous.filter(pc.is_in(previous["doc_id"], value_set=wanted.combine_chunks())).to_pylist()
    return rows


def _as_staged(known: Row) -> Row:
    return {name: known[name] for name in staging.STAGED.names if name != "action"}


def _outcome(name: str, listing: Listing, decision: Decision) -> SourceOutcome:
    problems = tuple(
        Failure(name, problem.uri, "list", problem.error_class, problem.message, transient=problem.transient)
        for problem in listing.problems
    )
    return SourceOutcome(name, unchanged=decision.unchanged, complete=listing.complete, problems=problems)


def tally(outcome: SourceOutcome, change: Change) -> SourceOutcome:
    """The outcome with one more change, as it looks before anything is parsed."""
    action, known = change.row["action"], change.known
    if action == "delete":
        return replace(outcome, deleted=outcome.deleted + 1)
    if action == "content":
        if known is not None and known["status"] == manifest.ACTIVE:
            return replace(outcome, changed=outcome.changed + 1)
        return replace(outcome, added=outcome.added + 1)
    outcome = replace(outcome, unchanged=outcome.unchanged + change.looked_at)
    if known is not None and known["acl_id"] != change.row["acl_id"]:
        return replace(outcome, access_changed=outcome.access_changed + 1)
    return outcome


def _raise_if_none_is_usable(examined: list[Examined]) -> None:
    errors = [one.outcome.error for one in examined if one.outcome.error]
    if errors and len(errors) == len(examined):
        kind = MassDeletionRefused if all(e.startswith("MassDeletion") for e in errors) else SourceError
        raise kind("\n".join(error.split(": ", 1)[1] for error in errors))


def write_outcomes(folder: Path, outcomes: list[SourceOutcome]) -> None:
    """Stage how each source fared."""
    staging.write_note(folder, OUTCOMES_NOTE, {"outcomes": [asdict(outcome) for outcome in outcomes]})


def read_outcomes(folder: Path) -> tuple[list[SourceOutcome], list[Failure]]:
    """How each source fared in this update, and all problems and failures of listing and fetching."""
    outcomes = []
    for row in staging.read_note(folder, OUTCOMES_NOTE).get("outcomes", ()):
        problems = tuple(Failure(**problem) for problem in row["problems"])
        outcomes.append(SourceOutcome(**{**row, "problems": problems}))
    return outcomes, [problem for outcome in outcomes for problem in outcome.problems]
