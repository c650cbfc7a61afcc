"""Rights are of now, contents are of the snapshot: which rows of a snapshot today's rules withhold from somebody.

A row carries the access set that it had when its snapshot was built. It is shown only if that set and today's rules
both allow it. Here is what today's rules say about the documents of a snapshot for which that may be another answer:
those that the manifest has changed since, those of sources whose rules have changed, and those of which something was
heard that is not applied yet. Of all other documents the answer is the same, so nothing needs to be looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Config, load_config
from pipelines.errors import LakeError
from pipelines.governance.access import UNCOVERED, AclRegistry, SourceLabels, acl_ids_for
from pipelines.identity import doc_id
from pipelines.index.protocol import State, Visible
from pipelines.index.rows import SCALAR_ROW
from pipelines.lake import manifest, snapshots
from pipelines.lake.events import EventType
from pipelines.lake.schemas import DOCUMENTS
from pipelines.lake.tables import Lake
from pipelines.principals import Principals, access_set, parse_tenant
from pipelines.project import Project
from pipelines.sources.section import SourceSection
from pipelines.update.applying.found import labels_fingerprint
from pipelines.update.looking import progress
from pipelines.update.looking.known import latest
from pipelines.update.looking.progress import Progress
from pipelines.update.snapshot.candidate import lost_manifest

_ROW = ["doc_id", "source", "uri", "tenant", "acl_id"]
_MANY = 1_000  # withheld documents from which it is worth counting whether they are all of their access set
_FOUND: tuple[EventType, ...] = ("observed", "absent")
_STATED: tuple[EventType, ...] = ("upsert", "delete")  # announcements that say themselves what a document is now

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Differing:
    """The documents of one snapshot whose readers are others today: doc_id to its access set then and its set now."""

    documents: Mapping[str, tuple[int, int]]
    registry: AclRegistry  # knows every set that is named, also those that no table holds yet
    totals: Mapping[int, int]  # documents of the snapshot by their set then; empty where few differ

    @property
    def new_readers(self) -> set[int]:
        """The access sets of today that differ from those that the rows carry."""
        return {now for _, now in self.documents.values()}


class Rights:
    """Answers what somebody may be shown, by today's rules; keeps what it found out until anything of it has changed.

    The configuration is read again when its file has changed, so that a process that runs for weeks follows it, too.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._read: tuple[object, Config] = (None, project.config)
        self._known: tuple[object, Differing] | None = None

    def sets(self, principals: Iterable[str], tenant: str) -> tuple[int, ...]:
        """The access sets of a tenant that name one of the principals; none: there is nothing that they may read.

        Raises:
            AccessError: a principal, or the tenant's name, is malformed.
            ConfigError: the configuration has changed and is wrong now: whom it allows what is not known.
        """
        acl_sets = self._project.lake.read("acl_sets")
        return tuple(acl_ids_for(principals, acl_sets, tenant=tenant, fold_case=self._fold_case))

    def visible(self, state: State, principals: Iterable[str], tenant: str) -> Visible:
        """The rows of the snapshot whose slot has that state which the principals may be shown now.

        Raises:
            AccessError: a principal, or the tenant's name, is malformed.
            ConfigError: the configuration has changed and is wrong now: whom it allows what is not known.
        """
        asking = access_set(principals, fold_case=self._fold_case)
        tenant = parse_tenant(tenant)
        sets = set(self.sets(asking, tenant))
        if not sets:
            return Visible(tenant, ())
        differing = self.differing(state)
        allowed = {now for now in differing.new_readers if _names(differing.registry.of(now), asking, tenant)}
        withheld = {
            document: then
            for document, (then, now) in differing.documents.items()
            if then in sets and now not in allowed
        }
        if differing.totals:  # a set of which every document is withheld needs no list of them
            counted = Counter(withheld.values())
            gone = {acl_id for acl_id, count in counted.items() if count == differing.totals.get(acl_id)}
            sets -= gone
            withheld = {document: then for document, then in withheld.items() if then not in gone}
        return Visible(tenant, tuple(sorted(sets)), tuple(sorted(withheld)))

    def differing(self, state: State) -> Differing:
        """The documents of a snapshot whose readers are others today.

        Raises:
            ConfigError: the configuration has changed and is wrong now.
        """
        config = self._config()
        states = {section.name: progress.read(self._project.home, section.name) for section in config.sources}
        followed = tuple(
            (one.source, one.applied_sequence, one.observed_sequence, one.labels) for one in states.values()
        )
        lake = self._project.lake
        key = (
            state["snapshot_id"],
            *(_version(lake, name) for name in (manifest.TABLE, snapshots.TABLE)),
            lake.version("change_events"),
            lake.version("acl_sets"),
            followed,
            id(config),
        )
        if self._known is None or self._known[0] != key:
            comparison = _Comparison(self._project, config, states, state)
            try:
                self._known = key, comparison.made()
            except LakeError:  # what the rules can tell without a damaged table, they tell
                self._known = key, comparison.made_without_manifest()
        return self._known[1]

    @property
    def _fold_case(self) -> bool:
        return self._config().principals.fold_case

    def _config(self) -> Config:
        path = self._project.config_path
        if path is None:
            return self._project.config
        try:
            status = path.stat()
            signature: object = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            signature = "missing"
        if self._read[0] != signature:
            self._read = signature, load_config(path)
        return self._read[1]


class _Comparison:
    """What the rows of one snapshot carry, held against today's rules."""

    def __init__(self, project: Project, config: Config, states: Mapping[str, Progress], state: State) -> None:
        self._project, self._lake, self._states, self._state = project, project.lake, states, state
        self._sections = {section.name: section for section in config.sources}
        self._registry = AclRegistry(self._lake.read("acl_sets"))
        fold_case = config.principals.fold_case
        self._labels = {
            name: SourceLabels(section, self._registry, fold_case=fold_case) for name, section in self._sections.items()
        }
        self._stale = frozenset(
            name
            for name, section in self._sections.items()
            if states[name].labels != labels_fingerprint(section, fold_case=fold_case)
        )

    def made(self) -> Differing:
        heard = self._heard()
        documents: dict[str, tuple[int, int]] = {}
        touched = self._touched({(name, uri) for name, uris in heard.items() for uri in uris})
        for source in touched["source"].unique().to_pylist():
            rows = touched.filter(pc.equal(touched["source"], source))
            for row, now in zip(rows.to_pylist(), self._now(source, rows, heard.get(source, {})), strict=True):
                if now != row["acl_id"]:
                    documents[row["doc_id"]] = (row["acl_id"], now)
        totals: dict[int, int] = {}
        if len(documents) > _MANY:
            counts = pc.value_counts(self._then["acl_id"])
            totals = dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))
        return Differing(documents, self._registry, totals)

    def made_without_manifest(self) -> Differing:
        """The same from the slot's own rows, the rules, and what was last heard of each document."""
        documents: dict[str, tuple[int, int]] = {}
        heard = self._heard()
        for row in self._from_slot().to_pylist():
            section = self._sections.get(row["source"])
            now = row["acl_id"]
            if section is not None:
                told = self._last_heard.get(section.name, {}) | heard.get(section.name, {})
                reported = told[row["uri"]]["readers"] if row["uri"] in told else None
                uris, readers = [[row["uri"]]], pa.chunked_array([[reported]], pa.list_(pa.string()))
                now = int(self._labels[section.name].acl_ids(pa.chunked_array(uris), readers)[0])
            if now != row["acl_id"]:
                documents[row["doc_id"]] = (row["acl_id"], now)
        return Differing(documents, self._registry, {})

    @cached_property
    def _last_heard(self) -> dict[str, dict[str, Row]]:
        """By source and uri the last thing that a look found of it."""
        found: dict[str, dict[str, Row]] = {}
        for row in self._project.events.newer(dict.fromkeys(self._sections, 0), _FOUND).to_pylist():
            found.setdefault(row["source"], {})[row["uri"]] = row
        return found

    # --- what the snapshot's rows carry ---

    @cached_property
    def _snapshot_is_told(self) -> bool:
        """Whether the manifest still tells what the snapshot was built from."""
        found = snapshots.by_id(self._lake, self._project.alias, self._state["snapshot_id"])
        return found is not None and not lost_manifest(self._project, found)

    @cached_property
    def _then(self) -> pa.Table:
        """Every document of the snapshot, with the access set that its rows carry."""
        if self._snapshot_is_told:
            version = self._state["manifest_version"]
            return manifest.active_documents(self._lake, version).select(_ROW)
        return self._from_slot()

    def _from_slot(self) -> pa.Table:
        index = self._project.index()
        collection = index.alias_target(self._project.alias)
        rows = index.rows(collection) if collection else SCALAR_ROW.empty_table()
        found = rows.select(_ROW).group_by("doc_id").aggregate([(name, "min") for name in _ROW[1:]])
        return found.rename_columns(_ROW)

    def _touched(self, heard: set[tuple[str, str]]) -> pa.Table:
        """The documents of the snapshot for which today's rules may say something else; in rest nothing is read."""
        changed = self._changed()
        if changed is None:
            return self._then
        ids = sorted(changed | {doc_id(source, uri) for source, uri in heard})
        if not self._stale:
            version = self._state["manifest_version"]
            if not ids:
                return DOCUMENTS.empty_table().select(_ROW)
            return manifest.active_documents(self._lake, version, columns=_ROW, doc_ids=ids).select(_ROW)
        then = self._then
        wanted = pc.is_in(then["source"], value_set=pa.array(sorted(self._stale), pa.string()))
        return then.filter(pc.or_(wanted, pc.is_in(then["doc_id"], value_set=pa.array(ids, pa.string()))))

    def _changed(self) -> set[str] | None:
        """Documents that the manifest has changed since the snapshot; None when it cannot tell."""
        if not self._snapshot_is_told:
            return None
        newest = self._lake.version(manifest.TABLE)
        if self._state["manifest_version"] == newest:
            return set()
        changes = manifest.changes_between(self._lake, self._state["manifest_version"], newest)
        return None if changes is None else set(changes.doc_ids)

    # --- what is so today ---

    def _now(self, source: str, rows: pa.Table, heard: Mapping[str, Row]) -> list[int]:
        """The access set that each of those rows' documents has today."""
        section = self._sections.get(source)
        newest = self._newest(rows["doc_id"])
        if section is None:
            # Taken out of the configuration, which is a removal that the operator is asked about: until it is applied,
            # the rules that were applied last hold, and nobody but the admins of its tenant reads what went with it.
            gone = [self._registry.ids_for([UNCOVERED], tenant)[UNCOVERED] for tenant in rows["tenant"].to_pylist()]
            return [newest.get(one, nobody) for one, nobody in zip(rows["doc_id"].to_pylist(), gone, strict=True)]
        reported = self._reported(section, rows["uri"]) if source in self._stale else {}
        now: list[int] = []
        told: list[tuple[int, str, Any]] = []  # position, uri, readers that the source reports
        named = zip(rows["doc_id"].to_pylist(), rows["uri"].to_pylist(), strict=True)
        for position, (document, uri) in enumerate(named):
            now.append(newest.get(document, 0))
            event = heard.get(uri)
            if event is not None:
                told.append((position, uri, event["readers"]))
            elif document not in newest:
                told.append((position, uri, None))  # gone: the rules of its path
            elif source in self._stale:
                told.append((position, uri, reported.get(uri)))
        uris = pa.chunked_array([pa.array([uri for _, uri, _ in told], pa.string())])
        readers = pa.chunked_array([pa.array([said for _, _, said in told], pa.list_(pa.string()))])
        for (position, _, _), acl_id in zip(told, self._labels[source].acl_ids(uris, readers).tolist(), strict=True):
            now[position] = acl_id
        return now

    def _newest(self, doc_ids: pa.ChunkedArray) -> dict[str, int]:
        """Of those documents that the manifest has now, their access sets there."""
        where = pc.field("doc_id").isin(doc_ids.combine_chunks()) & (pc.field("status") == manifest.ACTIVE)
        found = self._lake.read(manifest.TABLE, ["doc_id", "acl_id", "status"], where=where)
        return dict(zip(found["doc_id"].to_pylist(), found["acl_id"].to_pylist(), strict=True))

    def _heard(self) -> dict[str, dict[str, Row]]:
        """By source and uri what was heard and is not in the manifest yet: the readers that their source reports."""
        log = self._project.events
        heard: dict[str, dict[str, Row]] = {}
        found = log.newer({name: one.applied_sequence for name, one in self._states.items()}, _FOUND)
        for row in found.to_pylist():  # the oldest first: of each document the latest counts
            heard.setdefault(row["source"], {})[row["uri"]] = row
        stated = log.newer({name: one.observed_sequence for name, one in self._states.items()}, _STATED)
        for source in stated["source"].unique().to_pylist():
            uris = stated.filter(pc.equal(stated["source"], source))["uri"].unique().to_pylist()
            winners = log.state(source, uris=uris).select(["uri", "readers"])
            heard.setdefault(source, {}).update((row["uri"], row) for row in winners.to_pylist())
        return heard

    def _reported(self, section: SourceSection, uris: pa.ChunkedArray) -> dict[str, list[str] | None]:
        """What the source reported last about the readers of these documents, where it reports them at all."""
        if not section.reports_readers:
            return {}
        observed = latest(self._project.events.after(section.name, 0, ("observed",)))
        mine = observed.filter(pc.is_in(observed["uri"], value_set=uris.combine_chunks()))
        return dict(zip(mine["uri"].to_pylist(), mine["readers"].to_pylist(), strict=True))


def _version(lake: Lake, table: str) -> int | None:
    """None for a table that cannot be read."""
    try:
        return lake.version(table)
    except LakeError:
        return None


def _names(found: tuple[str, Principals] | None, asking: Principals, tenant: str) -> bool:
    """Whether an access set is of that tenant and names one of those who ask."""
    return found is not None and found[0] == tenant and not set(found[1]).isdisjoint(asking)
