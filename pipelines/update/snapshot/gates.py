"""The gates: what must hold before the alias moves to a candidate.

For an incremental snapshot they look at the documents that its build touched, for a full one at every row. What they
read in the index is computed anew from the stored fields, never taken from a stored hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import GateFailed
from pipelines.identity import digest
from pipelines.lake import dead_letters, snapshots
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.reports import GateResult
from pipelines.update.snapshot.evidence import Evidence, gather

_SHOWN = 20  # failing rows in a result
_NORM_TOLERANCE = 1e-3


def row_count_parity(project: Project, snapshot_id: str) -> GateResult:
    """The slot holds as many rows as the tables say."""
    evidence = gather(project, snapshot_id)
    actual = project.index().count(evidence.snapshot.collection)
    return GateResult(
        "row_count_parity",
        actual == evidence.snapshot.rows,
        "The slot holds as many rows as the tables say.",
        {"expected_rows": evidence.snapshot.rows, "actual_rows": actual},
    )


def digest_parity(project: Project, snapshot_id: str) -> GateResult:
    """The rows read back from the slot have the digest that the tables say."""
    evidence = gather(project, snapshot_id)
    expected = digest(evidence.expected.row_hashes)
    actual = digest(computed for _, _, computed in evidence.actual_hashes)
    carried = evidence.touched is not None or expected == evidence.snapshot.digest
    passed = expected == actual and carried
    return GateResult(
        "digest_parity",
        passed,
        "The rows read back from the slot have the digest that the tables say.",
        {
            "scope": _scope(evidence),
            "rows_read": len(evidence.actual_hashes),
            "expected_digest": expected,
            "actual_digest": actual,
            "snapshot_digest": evidence.snapshot.digest,
            "failing_rows": [] if passed else evidence.differences()[:_SHOWN],
        },
    )


def unique_keys(project: Project, snapshot_id: str) -> GateResult:
    """No chunk is in the slot twice, and no chunk or vector is in its table twice."""
    evidence = gather(project, snapshot_id)
    in_slot = _repeated(chunk_id for chunk_id, _, _ in evidence.actual_hashes)
    chunks, vectors = evidence.expected.table_keys()
    in_chunks, in_vectors = _repeated(chunks), _repeated(vectors)
    return GateResult(
        "unique_keys",
        not (in_slot or in_chunks or in_vectors),
        "No chunk is in the slot twice, and no chunk or vector is in its table twice.",
        {
            "scope": _scope(evidence),
            "failing_rows": [
                {"table": table, "key": str(key)}
                for table, keys in (("index", in_slot), ("chunks", in_chunks), ("embeddings", in_vectors))
                for key in keys[:_SHOWN]
            ],
        },
    )


def finite_vectors(project: Project, snapshot_id: str) -> GateResult:
    """Every vector is finite, of the model's dimension, and of unit length."""
    evidence = gather(project, snapshot_id)
    dimension = project.recipe.dimension
    failing: list[dict[str, object]] = []
    checked = 0
    for batch in evidence.expected.vector_batches():
        checked += batch.num_rows
        lengths = pc.list_value_length(batch["vector"]).to_numpy(zero_copy_only=False)
        if (lengths == dimension).all():
            vectors = batch["vector"].flatten().to_numpy().reshape(-1, dimension).astype(np.float64)
            norms = np.linalg.norm(vectors, axis=1)
        else:
            norms = np.where(lengths == dimension, 1.0, np.nan)
        bad = np.flatnonzero(~(np.abs(norms - 1.0) <= _NORM_TOLERANCE))
        failing += [
            {"text_hash": batch["text_hash"][int(i)].as_py(), "norm": float(norms[i]), "dimension": int(lengths[i])}
            for i in bad[:_SHOWN]
        ]
    return GateResult(
        "finite_vectors",
        not failing,
        "Every vector is finite, of the model's dimension, and of unit length.",
        {"scope": _scope(evidence), "vectors": checked, "failing_rows": failing[:_SHOWN]},
    )


def documents_accounted(project: Project, snapshot_id: str) -> GateResult:
    """Every active document has rows, or is known to hold no text, or has a dead letter that says why."""
    from pipelines.update.applying.parse import parse_results

    evidence = gather(project, snapshot_id)
    without = set(evidence.expected.documents_without_rows())
    documents = evidence.documents
    documents = documents.filter(pc.is_in(documents["doc_id"], value_set=pa.array(sorted(without), pa.string())))
    letters = dead_letters.unresolved(project.lake)
    explained = set(zip(letters["source"].to_pylist(), letters["uri"].to_pylist(), strict=True))
    results = parse_results(project, documents)
    empty, failing = 0, []
    for row in documents.to_pylist():
        result = results.get((row["content_hash"], row["media_type"]))
        if result is not None and result["status"] == "empty":
            empty += 1
        elif (row["source"], row["uri"]) not in explained:
            failing.append({"source": row["source"], "uri": row["uri"], "parsed": result["status"] if result else "no"})
    return GateResult(
        "documents_accounted",
        not failing,
        "Every active document has rows, or is known to hold no text, or has a dead letter that says why.",
        {
            "scope": _scope(evidence),
            "documents": evidence.documents.num_rows,
            "without_text": empty,
            "failing_rows": failing[:_SHOWN],
        },
    )


def token_budget(project: Project, snapshot_id: str) -> GateResult:
    """No chunk is longer than the encoder reads, so that nothing is ever cut."""
    evidence = gather(project, snapshot_id)
    limit = project.recipe.max_tokens
    tokens = evidence.expected.tokens()
    over = {key: count for key, count in tokens.items() if count > limit}
    return GateResult(
        "token_budget",
        not over,
        "No chunk is longer than the encoder reads, so that nothing is ever cut.",
        {
            "scope": _scope(evidence),
            "limit": limit,
            "longest": max(tokens.values(), default=0),
            "failing_rows": [{"text_hash": key, "tokens": count} for key, count in list(over.items())[:_SHOWN]],
        },
    )


GATES: dict[str, Callable[[Project, str], GateResult]] = {
    gate.__name__: gate
    for gate in (row_count_parity, digest_parity, unique_keys, finite_vectors, documents_accounted, token_budget)
}


def same_digest(rebuilt: Snapshot, original: Snapshot) -> GateResult:
    """A snapshot that came back from the tables has the digest that it had."""
    return GateResult(
        "same_digest",
        rebuilt.digest == original.digest,
        "A snapshot that came back from the tables has the digest that it had.",
        {"expected_digest": original.digest, "actual_digest": rebuilt.digest},
    )


def run_gates(project: Project, snapshot_id: str) -> list[GateResult]:
    """The result of every gate, in their order."""
    return [gate(project, snapshot_id) for gate in GATES.values()]


def record_gates(project: Project, snapshot_id: str, results: Iterable[GateResult], *, run_id: str) -> None:
    """Write the results into the snapshot's record; a candidate with a gate that did not pass becomes rejected."""
    snapshot = snapshots.find(snapshots.history(project.lake, project.alias), snapshot_id)
    recorded = {result.name: {"passed": result.passed, **result.details} for result in results}
    passed = all(gate["passed"] for gate in recorded.values())
    status = snapshot.status if passed else "rejected"
    snapshots.record(project.lake, replace(snapshot, gates=recorded, status=status, run_id=run_id))


def require(snapshot_id: str, results: Iterable[GateResult]) -> None:
    """Do nothing when every gate passed.

    Raises:
        GateFailed: naming those that did not, with their first failing rows.
    """
    failed = [result for result in results if not result.passed]
    if failed:
        told = "; ".join(f"{result.name}: {_short(result)}" for result in failed)
        raise GateFailed(
            f"snapshot {snapshot_id} did not pass {told}. The live snapshot stays; run `lockstep update --full` to "
            "build from nothing, and look at the checks in the UI"
        )


def _short(result: GateResult) -> str:
    rows = result.details.get("failing_rows")
    if rows:
        return f"{len(rows)} failing rows, the first: {rows[0]}"
    return ", ".join(f"{key} {value}" for key, value in result.details.items() if key != "failing_rows")


def _scope(evidence: Evidence) -> str:
    return "all documents" if evidence.touched is None else f"{len(evidence.touched)} changed documents"


def _repeated(keys: Iterable[object]) -> list[object]:
    return [key for key, count in Counter(keys).items() if count > 1]
