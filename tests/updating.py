"""One update without Dagster: the library's steps in the order in which the assets call them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.home import Home
from pipelines.project import Project
from pipelines.update.applying import changes, manifest, parse
from pipelines.update.deriving import chunks, embeddings
from pipelines.update.reports import (
    CandidateReport,
    ChangesReport,
    ChunkReport,
    EncodeReport,
    ManifestReport,
    ParseReport,
    PromotionReport,
)
from pipelines.update.snapshot import candidate, gates, promotion


@dataclass(frozen=True)
class Update:
    """The reports of one update."""

    changes: ChangesReport
    parsed: ParseReport
    manifest: ManifestReport
    chunks: ChunkReport
    encoded: EncodeReport
    candidate: CandidateReport
    promotion: PromotionReport

    @property
    def seconds(self) -> float:
        """Of library time, the promotion's swap included."""
        reports = (self.changes, self.parsed, self.manifest, self.chunks, self.encoded, self.candidate)
        return sum(report.seconds for report in reports) + self.promotion.swap_seconds


def write_config(folder: Path, corpus: str = "corpus", **sections: Any) -> Path:
    """A configuration with one folder as its source: hr/** is for HR, the rest for all staff."""
    access = [{"match": "hr/**", "readers": ["group:hr"]}, {"match": "**", "readers": ["group:staff"]}]
    source = {"name": "docs", "kind": "filesystem", "path": corpus, "access": access}
    path = folder / "lockstep.yaml"
    path.write_text(yaml.safe_dump({"index": "test", "sources": [source], **sections}), encoding="utf-8")
    return path


def open_project(folder: Path, **sections: Any) -> Project:
    """A project on `folder/corpus` with its data in `folder/home`."""
    (folder / "corpus").mkdir(exist_ok=True)
    return Project.open(write_config(folder, **sections), Home(folder / "home"))


def update(
    project: Project,
    run_id: str = "run",
    *,
    full: bool = False,
    approve_deletions: bool = False,
    scan: bool = True,
    before: Callable[[str], None] = lambda step: None,
) -> Update:
    """Run every step; `before` is called with each step's name and may raise to interrupt the update there.

    Without `scan` no source is looked at: only what looks found before is applied.
    """
    with project.writer(run_id, "update"):
        before("changes")
        changed = changes.detect_changes(
            project, run_id=run_id, approve_deletions=approve_deletions, thorough=full, scan=scan
        )
        before("parse")
        parsed = parse.parse_documents(project, run_id=run_id, full=full)
        before("manifest")
        merged = manifest.merge_manifest(project, run_id=run_id)
        before("chunks")
        chunked = chunks.chunk_documents(project, run_id=run_id)
        before("encode")
        encoded = embeddings.encode_chunks(project, run_id=run_id)
        before("candidate")
        built = candidate.build_candidate(project, run_id=run_id, full=full)
        before("gates")
        if built.built:
            results = gates.run_gates(project, built.snapshot_id)
            gates.record_gates(project, built.snapshot_id, results, run_id=run_id)
        before("promote")
        promoted = promotion.promote(project, built.snapshot_id, run_id=run_id)
    return Update(changed, parsed, merged, chunked, encoded, built, promoted)
