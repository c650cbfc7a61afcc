"""What looks at one source found, against the rows that the manifest has: the staged changes of that source.

Found events are applied in the order of their sequence, and of each document the latest counts; so it does not matter
how often one is applied.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import MassDeletionRefused
from pipelines.governance.access import AclRegistry, SourceLabels
from pipelines.identity import doc_id, fingerprint
from pipelines.lake import dead_letters, manifest
from pipelines.lake.dead_letters import Failure
from pipelines.lake.events import Event
from pipelines.project import Project
from pipelines.sources.base import ITEMS, Listing
from pipelines.sources.detect import decide, guard_deletions
from pipelines.sources.section import SourceSection
from pipelines.update import staging
from pipelines.update.applying import approvals, census
from pipelines.update.applying.waiting import StoredRows, WaitingEvents
from pipelines.update.looking import progress
from pipelines.update.looking.known import latest
from pipelines.update.looking.look import AGAIN
from pipelines.update.looking.progress import Progress
from pipelines.update.reports import SourceOutcome

Row = dict[str, Any]

_PART_ROWS = 16_384  # held as Python's own objects at a time


@dataclass(slots=True)
class Applied:
    """What one update does for one source. `refused`: the guard asks first, and nothing of the source is applied."""

    source: str
    through: int  # sequence of the last event that is applied by this
    labels: str  # fingerprint of the access rules that hold after it
    outcome: SourceOutcome
    staged: list[pa.Table] = field(default_factory=list)  # STAGED, a part at a time
    refreshed: list[pa.Table] = field(default_factory=list)  # only a time stamp that can be trusted now
    waiting: int = 0  # events that were found, and that this update leaves to the next one
    failures: list[Failure] = field(default_factory=list)
    healed: list[tuple[str, str]] = field(default_factory=list)  # (source, uri), with a letter, and found well or gone
    refused: bool = False
    parse_again: list[str] = field(default_factory=list)  # content hashes whose failed parse shall be forgotten
    settled: bool = False
    approved: bool = False

    def rows(self) -> pa.Table:
        """Every staged change."""
        return pa.concat_tables([staging.STAGED.empty_table(), *self.staged])


def apply_found(
    project: Project,
    section: SourceSection,
    registry: AclRegistry,
    *,
    approve_deletions: bool = False,
    relabel: bool = True,
    at_most: int | None = None,
    also: Sequence[Event] = (),
    ask: bool = True,
) -> Applied:
    """The staged changes of one source, worked out a part at a time.

    Args:
        project: whose log and progress are read.
        section: the source's configuration.
        registry: gives the access sets their ids.
        approve_deletions: the operator's word for whatever the guard asks.
        relabel: apply today's access rules to all its documents, also if they seem to be applied already.
        at_most: events to apply; what is left waits for the next update. None: everything that was found.
        also: found events that are not in the log, as if they were its newest: for a plan.
        ask: keep what the guard refuses as a question for the operator.
    """
    name = section.name
    state = progress.read(project.home, name)
    labels = project.labels(section, registry)
    stored = StoredRows(project.lake, name)
    events = WaitingEvents(project.events, name, state.applied_sequence, also)
    found = events.narrow
    outcome = SourceOutcome(name)
    fingerprint_now = _labels_now(project, section)
    try:
        approved = _guarded(project, section, state, stored, found, approve_deletions=approve_deletions)
    except MassDeletionRefused as error:
        if ask:
            _ask(project, name, stored.rows, error)
        outcome = replace(outcome, complete=False, error=f"{type(error).__name__}: {error}")
        applied = Applied(name, state.applied_sequence, state.labels, outcome, refused=True)
        now = _as_labelled(project, section, state, stored.rows)
        _relabel(applied, stored, section, labels, set(), now)  # today's access rules hold all the same
        return applied
    part = found if at_most is None else found.slice(0, at_most)
    left = len(found) - len(part)
    through = max(state.applied_sequence, pc.max(part["sequence"]).as_py() or 0)
    outcome = replace(outcome, waiting=left)
    applied = Applied(name, through, fingerprint_now, outcome, waiting=left, settled=not left, approved=approved)
    letters = dead_letters.open_letters(project.lake)
    lettered = frozenset(letters.filter(pc.equal(letters["source"], name))["uri"].to_pylist())
    seen = _documents(applied, section, labels, stored, events, part, lettered)
    _failures(applied, events.whole(part.filter(pc.not_equal(part["type"], "observed"))))
    if relabel or state.labels != fingerprint_now:
        _relabel(applied, stored, section, labels, seen, _as_labelled(project, section, state, stored.rows))
    return applied


def _ask(project: Project, name: str, previous: pa.Table, error: MassDeletionRefused) -> None:
    named = previous.filter(pc.is_in(previous["doc_id"], value_set=pa.array(error.doc_ids, pa.string())))
    pairs = list(zip(named["doc_id"].to_pylist(), named["uri"].to_pylist(), strict=True))
    approvals.ask(project.home, name, pairs, error.total)


def _labels_now(project: Project, section: SourceSection) -> str:
    return labels_fingerprint(section, fold_case=project.config.principals.fold_case)


def labels_fingerprint(section: SourceSection, *, fold_case: bool) -> str:
    """Of what the configuration says about the documents of a source."""
    said = {
        "rules": tuple((rule.match, rule.readers) for rule in section.access),
        "tenant": section.tenant,
        "class": section.classification,
        "fold_case": fold_case,
    }
    return fingerprint("labels", said)


def as_staged(known: Row) -> Row:
    """A row of the manifest as a staged one, without its action."""
    return {name: known[name] for name in staging.STAGED.names if name != "action"}


def _guarded(
    project: Project,
    section: SourceSection,
    state: Progress,
    stored: StoredRows,
    found: pa.Table,
    *,
    approve_deletions: bool,
) -> bool:
    """Whether deletions that the guard would refuse were allowed by the operator; raises when they were not."""
    last = latest(found.filter(pc.is_in(found["type"], value_set=pa.array(["observed", "absent"]))))
    if approve_deletions or not len(last) or section.announces_deletions:
        return approve_deletions and bool(len(last))
    since = datetime.now(UTC) - timedelta(seconds=project.config.guard.window_seconds)
    since = max(since, state.approved_at or since)
    absent = last.filter(pc.equal(last["type"], "absent"))["uri"].combine_chunks()
    if _few(project, section.name, absent, since):
        return False
    previous = stored.rows
    served = pc.equal(previous["status"], manifest.ACTIVE)
    gone = np.flatnonzero(pc.and_(pc.is_in(previous["uri"], value_set=absent), served).to_numpy().astype(np.bool_))
    there = last.filter(pc.equal(last["type"], "observed"))
    new = there.filter(pc.invert(pc.is_in(there["uri"], value_set=previous.filter(served)["uri"].combine_chunks())))
    lost = previous["content_hash"].take(pa.array(gone))
    moved = pc.sum(pc.is_in(lost, value_set=new["content_hash"].combine_chunks())).as_py() or 0
    left = (pc.sum(served).as_py() or 0) - len(gone) + len(new)
    try:
        guard_deletions(previous, gone, project.config.guard, source=section.name, left=left, since=since, moved=moved)
    except MassDeletionRefused as error:
        if set(error.doc_ids) <= approvals.approved(project.home, section.name):
            return True
        raise
    return False


def _few(project: Project, source: str, absent: pa.Array, since: datetime) -> bool:
    """Whether so little is gone that the guard need not look at the source's documents; see `guard_deletions`."""
    ids = [doc_id(source, uri) for uri in absent.to_pylist()]
    lost = len(manifest.active_documents(project.lake, columns=["doc_id"], doc_ids=ids))
    if not lost:
        return True
    served = census.count(project).get(source, census.Count()).active
    before = census.recently_deleted(project, source, since)
    return lost < served and (lost + before) / (served + before) <= project.config.guard.max_deleted_share


def _documents(
    applied: Applied,
    section: SourceSection,
    labels: SourceLabels,
    stored: StoredRows,
    events: WaitingEvents,
    found: pa.Table,
    lettered: frozenset[str],
) -> set[str]:
    """Stage what was found; returns the doc_ids of what the source itself was seen to hold."""
    last = latest(found.filter(pc.is_in(found["type"], value_set=pa.array(["observed", "absent"]))))
    seen: set[str] = set()
    for start in range(0, len(last), _PART_ROWS):
        whole = events.whole(last.slice(start, _PART_ROWS))
        seen |= _documents_of(applied, section, labels, stored, whole, lettered)
    return seen


def _documents_of(
    applied: Applied,
    section: SourceSection,
    labels: SourceLabels,
    stored: StoredRows,
    last: pa.Table,
    lettered: frozenset[str],
) -> set[str]:
    """The same for one part: rows as Python holds them take ten times the memory of columns."""
    acl_ids = labels.acl_ids(last["uri"], last["readers"]).tolist()
    ids = [doc_id(section.name, uri) for uri in last["uri"].to_pylist()]
    before = {row["doc_id"]: row for row in stored.whole(ids)}
    seen: set[str] = set()
    rows: list[Row] = []
    refreshed: list[Row] = []
    for event, document, acl_id in zip(last.to_pylist(), ids, acl_ids, strict=True):
        known = before.get(document)
        if event["uri"] in lettered:
            applied.healed.append((section.name, event["uri"]))
        if event["type"] == "absent":
            if known is not None and known["status"] != manifest.DELETED:
                detected = {"detected_at": event["received_at"]}
                rows.append(_counted(applied, {**as_staged(known), **detected, "action": "delete"}, known))
            continue
        seen.add(document)
        row = _staged(section, event, document, acl_id)
        action = _action(row, known)
        if action != "content" and event["origin"].startswith(AGAIN) and known and known["quarantined_hash"]:
            action = "content"
            applied.parse_again.append(row["content_hash"])
        if action == "refresh":
            refreshed.append({**row, "action": "attributes"})
        elif action:
            rows.append(_counted(applied, {**row, "action": action}, known))
    applied.staged += _columns(rows)
    applied.refreshed += _columns(refreshed)
    return seen


def _columns(rows: list[Row]) -> list[pa.Table]:
    return [pa.Table.from_pylist(rows, schema=staging.STAGED)] if rows else []


def _staged(section: SourceSection, event: Row, document: str, acl_id: int) -> Row:
    return {
        "doc_id": document,
        "source": section.name,
        "uri": event["uri"],
        "tenant": section.tenant,
        "acl_id": acl_id,
        "classification": section.classification,
        "media_type": event["media_type"],
        "size_bytes": event["size_bytes"],
        "etag": event["etag"],
        "modified_at": event["modified_at"],
        "content_hash": event["content_hash"],
        "metadata": event["attributes"],
        "detected_at": event["received_at"],
    }


def _action(row: Row, known: Row | None) -> str:
    """What a document that was seen needs: "content", "attributes", "refresh" (a time stamp alone), or nothing."""
    if known is None or known["status"] == manifest.DELETED:
        return "content"
    if row["content_hash"] != (known["quarantined_hash"] or known["content_hash"]):
        return "content"
    quarantined = known["quarantined_hash"] is not None
    told = json.loads(known["metadata"]).items() >= json.loads(row["metadata"]).items()
    if not quarantined and (not told or row["media_type"] != known["media_type"]):
        return "content"  # parsed already; what the source says about it is merged anew
    labels = any(known[name] != row[name] for name in ("acl_id", "tenant", "classification", "size_bytes", "etag"))
    if labels or known["modified_at"] not in (None, row["modified_at"]):
        return "attributes"
    return "refresh" if known["modified_at"] != row["modified_at"] else ""


def _counted(applied: Applied, row: Row, known: Row | None) -> Row:
    """The row, once it is counted as what it does to its document."""
    outcome = applied.outcome
    if row["action"] == "delete":
        applied.outcome = replace(outcome, deleted=outcome.deleted + 1)
    elif known is None or known["status"] != manifest.ACTIVE:
        applied.outcome = replace(outcome, added=outcome.added + 1)
    elif row["action"] == "content" and row["content_hash"] != known["content_hash"]:
        applied.outcome = replace(outcome, changed=outcome.changed + 1)
    elif known["acl_id"] != row["acl_id"]:
        applied.outcome = replace(outcome, access_changed=outcome.access_changed + 1)
    else:
        applied.outcome = replace(outcome, unchanged=outcome.unchanged + 1)
    return row


def _failures(applied: Applied, found: pa.Table) -> None:
    """The last failure of each document and stage that nothing cured since, and every message not understood.

    `found` has no documents that were observed.
    """
    open_ones: dict[tuple[str, str], Failure] = {}
    for event in found.to_pylist():
        uri, told = event["uri"], json.loads(event["attributes"])
        if event["type"] == "rejected":
            applied.failures.append(_failure(applied.source, event, "event", transient=False))
        elif event["type"] == "failed":
            stage = told["stage"]
            open_ones[uri, stage] = _failure(applied.source, event, stage, transient=bool(told.get("transient")))
        else:  # recovered, or gone
            for key in [key for key in open_ones if key[0] == uri]:
                del open_ones[key]
            applied.healed.append((applied.source, uri))
    applied.failures += open_ones.values()
    failing = {(failure.source, failure.uri) for failure in applied.failures}
    applied.healed = [pair for pair in applied.healed if pair not in failing]


def _failure(source: str, event: Row, stage: Any, *, transient: bool) -> Failure:
    return Failure(
        source=source,
        uri=event["uri"] if stage != "event" else event["origin"],
        stage=stage,
        error_class=event["error_class"] or "SourceError",
        error=event["error"] or "",
        transient=transient,
        content_hash=event["content_hash"],
    )


def _relabel(
    applied: Applied,
    stored: StoredRows,
    section: SourceSection,
    labels: SourceLabels,
    seen: Iterable[str],
    now: Listing,
) -> None:
    """Today's rules, tenant and classification for every document that was not seen just now."""
    changed = decide(stored.rows, now, None, labels=labels, source=section.name).relabelled
    if not len(changed):
        return
    staged = [chunk for part in applied.staged for chunk in part["doc_id"].chunks]
    own = pa.chunked_array([*staged, pa.array(sorted(seen), pa.string())], pa.string())
    changed = changed.filter(pc.invert(pc.is_in(changed["doc_id"], value_set=own.combine_chunks())))
    for start in range(0, len(changed), _PART_ROWS):
        rows = {row["doc_id"]: row for row in changed.slice(start, _PART_ROWS).to_pylist()}
        applied.staged += _columns(
            [
                _counted(applied, {**as_staged(known), **rows[known["doc_id"]], "action": "attributes"}, known)
                for known in stored.whole(list(rows))
            ]
        )


def _as_labelled(project: Project, section: SourceSection, state: Progress, previous: pa.Table) -> Listing:
    """The documents as a listing that tells nothing but their readers.

    Where the rules have changed, and no rule covers a document any more, what its source reported last counts; if that
    is not on record any more, nobody but `role:admin` reads it until the source is listed.
    """
    if not section.reports_readers or state.labels == _labels_now(project, section):
        return Listing.unread("", reports_readers=section.reports_readers)
    last = latest(project.events.after(section.name, 0, ("observed",))).select(["uri", "readers"])
    known = previous.filter(pc.not_equal(previous["status"], manifest.DELETED))
    at = pc.index_in(known["uri"], value_set=last["uri"].combine_chunks())
    columns = {name: known[name] for name in ("uri", "size_bytes", "etag", "modified_at")}
    columns["readers"] = last["readers"].take(at)
    columns["metadata"] = pa.nulls(len(known), pa.string())
    return Listing(pa.table(columns).select(ITEMS.names).cast(ITEMS), reports_readers=True)
