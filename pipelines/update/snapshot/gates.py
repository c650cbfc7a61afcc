"""The gates: what must hold before the alias moves to a candidate.

For an incremental snapshot they look at the documents that its build touched, for a full one at every row. What they
read in the index is computed anew from the stored fields, never taken from a stored hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from pipelines.errors import GateFailed
from pipelines.lake import snapshots
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.reports import GateResult
from pipelines.update.snapshot.evidence import Evidence, Problems, gather


class Gate(Protocol):
    """A check of a candidate; its docstring says what holds when it passes."""

    __name__: str

    def __call__(self, project: Project, snapshot_id: str) -> GateResult:
        """Judge the candidate."""


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
    carried = evidence.touched is not None or evidence.expected_digest == evidence.snapshot.digest
    return _judged(
        digest_parity,
        evidence,
        evidence.rows_that_differ,
        passed=evidence.expected_digest == evidence.digest and carried,
        rows_read=evidence.rows,
        expected_digest=evidence.expected_digest,
        actual_digest=evidence.digest,
        snapshot_digest=evidence.snapshot.digest,
    )


def unique_keys(project: Project, snapshot_id: str) -> GateResult:
    """No chunk is in the slot twice, and no chunk or vector is in its table twice."""
    evidence = gather(project, snapshot_id)
    return _judged(unique_keys, evidence, evidence.repeated)


def finite_vectors(project: Project, snapshot_id: str) -> GateResult:
    """Every vector in the slot is finite, of the model's dimension, and of unit length."""
    evidence = gather(project, snapshot_id)
    return _judged(finite_vectors, evidence, evidence.unusable_vectors, vectors=evidence.rows)


def vectors_match(project: Project, snapshot_id: str) -> GateResult:
    """Every row is searched by the very vectors of the tables: dense and sparse, read back and compared bit for bit."""
    evidence = gather(project, snapshot_id)
    return _judged(vectors_match, evidence, evidence.vectors_that_differ, vectors=evidence.rows)


def documents_accounted(project: Project, snapshot_id: str) -> GateResult:
    """Every active document has rows, or is known to hold no text, or has a dead letter that says why."""
    evidence = gather(project, snapshot_id)
    return _judged(
        documents_accounted,
        evidence,
        evidence.unexplained,
        documents=evidence.documents,
        without_text=evidence.without_text,
    )


def token_budget(project: Project, snapshot_id: str) -> GateResult:
    """No chunk is longer than the encoder reads, so that nothing is ever cut."""
    evidence = gather(project, snapshot_id)
    return _judged(
        token_budget, evidence, evidence.over_budget, limit=project.recipe.max_tokens, longest=evidence.longest
    )


def _judged(
    gate: Gate, evidence: Evidence, problems: Problems, *, passed: bool | None = None, **details: object
) -> GateResult:
    """The result of a gate that fails where there are problems; `passed` where that alone does not decide."""
    name, description = gate.__name__, (gate.__doc__ or "").strip()
    told = {"scope": evidence.scope, **details, "failing": problems.count, "failing_rows": list(problems.first)}
    return GateResult(name, not problems.count if passed is None else passed, description, told)


GATES: dict[str, Gate] = {
    gate.__name__: gate
    for gate in (
        row_count_parity,
        digest_parity,
        unique_keys,
        finite_vectors,
        vectors_match,
        documents_accounted,
        token_budget,
    )
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
    """Write the results into the snapshot's record; a candidate with a gate that did not pass becomes rejected.

    One that passed them all and differs from the incremental index becomes diverged: nobody knows yet which is right.
    """
    history = snapshots.recent(project.lake, project.alias)
    snapshot = snapshots.find(history, snapshot_id)
    recorded = {result.name: {"passed": result.passed, **result.details} for result in results}
    failed = {name for name, gate in recorded.items() if not gate["passed"]}
    status = snapshot.status
    if failed:
        status = "diverged" if failed == {snapshots.AGREEMENT} else "rejected"
    older = [replace(s, status="rejected") for s in history if s.status == status == "diverged"]
    snapshots.record(project.lake, replace(snapshot, gates=recorded, status=status, run_id=run_id), *older)


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
        return f"{result.details.get('failing') or len(rows)} failing rows, the first: {rows[0]}"
    return ", ".join(f"{key} {value}" for key, value in result.details.items() if key != "failing_rows")
