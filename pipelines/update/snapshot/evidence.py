"""What the gates and `verify` look at: the rows that a snapshot should have, and those that its slot really holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.index.rows import row_hashes
from pipelines.lake import manifest, snapshots
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update import staging
from pipelines.update.snapshot.rows import ExpectedRows

_KEPT = "evidence"


@dataclass(frozen=True)
class Evidence:
    """Both sides of one snapshot, for all its documents or for those that its build touched.

    Each side is read once and kept; `touched` is None when every document is meant.
    """

    project: Project
    snapshot: Snapshot
    touched: tuple[str, ...] | None

    @cached_property
    def documents(self) -> pa.Table:
        """The active documents of the snapshot's manifest version, as far as they are meant."""
        active = manifest.active_documents(self.project.lake, self.snapshot.manifest_version)
        if self.touched is None:
            return active
        return active.filter(pc.is_in(active["doc_id"], value_set=pa.array(self.touched, pa.string())))

    @cached_property
    def expected(self) -> ExpectedRows:
        """What the tables say."""
        return ExpectedRows(self.project, self.documents, model_fp=self.snapshot.model_fp)

    @cached_property
    def actual(self) -> pa.Table:
        """What the slot holds: all stored fields but the vectors, with `row_hash` as it was written."""
        doc_ids = None if self.touched is None else list(self.touched)
        return self.project.index().rows(self.snapshot.collection, doc_ids)

    @cached_property
    def actual_hashes(self) -> list[tuple[str, str, str]]:
        """(chunk_id, uri, row hash computed anew from the stored fields) of every row that the slot holds."""
        computed = row_hashes(self.actual, self.snapshot.model_fp)
        return list(zip(self.actual["chunk_id"].to_pylist(), self.actual["uri"].to_pylist(), computed, strict=True))

    def differences(self) -> list[dict[str, str]]:
        """Rows that are missing, surplus, or hold something else, by chunk and document."""
        wanted = self.expected.hashes()
        uris = dict(zip(self.documents["doc_id"].to_pylist(), self.documents["uri"].to_pylist(), strict=True))
        found: set[str] = set()
        problems = []
        for chunk_id, uri, computed in self.actual_hashes:
            found.add(chunk_id)
            if chunk_id not in wanted:
                problems.append({"problem": "surplus row", "chunk_id": chunk_id, "uri": uri})
            elif wanted[chunk_id] != computed:
                problems.append({"problem": "row holds something else", "chunk_id": chunk_id, "uri": uri})
        problems += [
            {"problem": "missing row", "chunk_id": chunk_id, "uri": uris[doc_id]}
            for doc_id, chunk_id in zip(self.expected.doc_ids, self.expected.chunk_ids, strict=True)
            if chunk_id not in found
        ]
        return problems


def gather(project: Project, snapshot_id: str) -> Evidence:
    """The evidence for a candidate, kept with the project until another candidate is looked at."""
    kept = project.kept.get(_KEPT)
    if isinstance(kept, Evidence) and kept.snapshot.snapshot_id == snapshot_id:
        return kept
    snapshot = snapshots.find(snapshots.history(project.lake, project.alias), snapshot_id)
    note = staging.read_note(project.home.staging, staging.CANDIDATE)
    touched = None
    if snapshot.kind == "incremental" and note.get("snapshot_id") == snapshot.snapshot_id:
        touched = None if note["touched"] is None else tuple(note["touched"])
    found = Evidence(project, snapshot, touched)
    project.kept[_KEPT] = found
    return found
