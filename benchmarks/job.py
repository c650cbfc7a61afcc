"""One update as the job makes it, without Dagster: the library's own time, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from benchmarks.measuring import PeakMemory, Took, timed
from pipelines.home import Home
from pipelines.project import Project
from pipelines.update.applying import changes, manifest, parse
from pipelines.update.deriving import chunks, embeddings
from pipelines.update.reports import CandidateReport, ChangesReport, EncodeReport, ManifestReport, PromotionReport
from pipelines.update.snapshot import candidate, gates, promotion

WRITES = ("upsert", "delete", "create", "drop", "point_alias", "write_state")


@dataclass(frozen=True, slots=True)
class Update:
    """What one update took and did.

    `steps`: wall seconds; `memory`: peak bytes of each step, where it was watched; `commits`: by table; `index_writes`:
    calls that write.
    """

    took: Took
    steps: dict[str, float]
    memory: dict[str, int]
    commits: dict[str, int]
    index_writes: int
    changes: ChangesReport
    manifest: ManifestReport
    encoded: EncodeReport
    candidate: CandidateReport
    promotion: PromotionReport


def update(
    config: Path,
    home: Home,
    *,
    run_id: str = "bench",
    full: bool = False,
    scan: bool = True,
    watched: PeakMemory | None = None,
) -> Update:
    """Run every step on a project opened anew, so that nothing that an earlier update read is at hand.

    Without `scan` no source is listed: only what was announced is looked at.
    """
    before = Project.open(config, home).lake.versions()
    steps: dict[str, float] = {}
    memory: dict[str, int] = {}
    with ExitStack() as stack:
        writes = _count_writes(stack)
        with timed(home) as took:
            project = Project.open(config, home)
            with project.writer(run_id, "benchmark"):
                clock = time.perf_counter()

                def done(step: str) -> None:
                    nonlocal clock
                    now = time.perf_counter()
                    steps[step], clock = now - clock, now
                    if watched is not None:
                        memory[step] = watched.since()

                found = changes.detect_changes(project, run_id=run_id, thorough=full, scan=scan)
                done("changes")
                parse.parse_documents(project, run_id=run_id, full=full)
                done("parse")
                merged = manifest.merge_manifest(project, run_id=run_id)
                done("manifest")
                chunks.chunk_documents(project, run_id=run_id)
                done("chunk")
                encoded = embeddings.encode_chunks(project, run_id=run_id)
                done("encode")
                built = candidate.build_candidate(project, run_id=run_id, full=full)
                done("candidate")
                if built.built:
                    results = gates.run_gates(project, built.snapshot_id)
                    gates.record_gates(project, built.snapshot_id, results, run_id=run_id)
                    gates.require(built.snapshot_id, results)
                done("gates")
                promoted = promotion.promote(project, built.snapshot_id, run_id=run_id)
                done("promote")
    after = project.lake.versions()
    commits = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    return Update(took, steps, memory, commits, len(writes), found, merged, encoded, built, promoted)


def tables(config: Path, home: Home) -> dict[str, float]:
    """The steps from what was found to the vectors, without an index: seconds by step."""
    project = Project.open(config, home)
    steps: dict[str, Callable[[], object]] = {
        "changes": lambda: changes.detect_changes(project, run_id="bench", scan=False),
        "parse": lambda: parse.parse_documents(project, run_id="bench"),
        "manifest": lambda: manifest.merge_manifest(project, run_id="bench"),
        "chunk": lambda: chunks.chunk_documents(project, run_id="bench"),
        "encode": lambda: embeddings.encode_chunks(project, run_id="bench"),
    }
    took = {}
    with project.writer("bench", "benchmark"):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            took[name] = time.perf_counter() - started
    return took


def _count_writes(stack: ExitStack) -> list[str]:
    """The names of the index's writing methods, as they are called."""
    from pipelines.index.milvus import MilvusIndex

    called: list[str] = []
    for name in WRITES:
        original = getattr(MilvusIndex, name)

        def counted(
            self: MilvusIndex, *args: object, _name: str = name, _original: object = original, **options: object
        ) -> object:
            called.append(_name)
            return _original(self, *args, **options)  # type: ignore[operator]

        stack.enter_context(patch.object(MilvusIndex, name, counted))
    return called


def chunk_texts(config: Path, home: Home) -> tuple[list[str], list[int]]:
    """The distinct chunk texts in the order of the table, and the tokens of each."""
    chunks = Project.open(config, home).lake.read("chunks", ["text_hash", "text", "tokens"])
    distinct: dict[str, tuple[str, int]] = {}
    for key, text, tokens in zip(*(chunks[name].to_pylist() for name in chunks.schema.names), strict=True):
        distinct.setdefault(key, (text, tokens))
    texts, counts = zip(*distinct.values(), strict=True)
    return list(texts), list(counts)
