"""What an update did, told once: the JSON that scripts rely on and the lines that people read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.run import JobOutcome


_SHOWN = ("added", "changed", "deleted", "unchanged", "quarantined")


def of_update(outcome: JobOutcome) -> dict[str, Any]:
    """The update's figures; those of steps that did not run are zero."""
    reports = outcome.reports
    changes, merged = reports.get("source_changes"), reports.get("documents")
    chunks, encoded = reports.get("chunks"), reports.get("embeddings")
    built, promoted = reports.get("index_snapshots"), reports.get("live_index")
    steps = dict(outcome.step_seconds)
    told: dict[str, Any] = {
        "run_id": outcome.run_id,
        "snapshot_id": built.snapshot_id if built else None,
        "promoted": bool(promoted and promoted.promoted),
        "documents": {
            name: getattr(merged, name, 0)
            for name in ("added", "changed", "deleted", "unchanged", "quarantined", "access_changed", "active")
        },
        "chunks": {"added": getattr(chunks, "added", 0), "total": getattr(chunks, "total", 0)},
        "embeddings": {name: getattr(encoded, name, 0) for name in ("encoded", "reused", "total")},
        "index": {
            "upserted": getattr(built, "upserted", 0),
            "deleted": getattr(built, "deleted", 0),
            "rows": getattr(built, "rows", 0),
            "digest": getattr(built, "digest", None),
        },
        "dead_letters": getattr(merged, "open_dead_letters", 0),
        "seconds": {
            "total": sum(steps.values()),
            "parse": steps.get("elements", 0.0),
            "encode": steps.get("embeddings", 0.0),
            "index": steps.get("index_snapshots", 0.0) + steps.get("gates", 0.0) + steps.get("live_index", 0.0),
            "expectations": sum(seconds for name, seconds in steps.items() if name.endswith("_expectations")),
            "swap": getattr(promoted, "swap_seconds", 0.0),
            "steps": steps,
            "dagster": outcome.open_seconds + outcome.run_seconds - sum(steps.values()),
        },
        "gates": {result.name: result.passed for result in _gates(outcome)},
    }
    failing = complaints(outcome)
    if failing:
        told["errors"] = failing
    told["waiting"] = getattr(changes, "waiting", 0)
    if changes:
        told["sources"] = {one.source: one.error or "ok" for one in changes.sources}
    return told


def lines(told: dict[str, Any]) -> list[str]:
    """The same for people."""
    documents, seconds, index = told["documents"], told["seconds"], told["index"]
    gates = told["gates"]
    passed = sum(gates.values())
    live = "now live" if told["promoted"] else "live as before" if told["snapshot_id"] else "none"
    waiting = told["waiting"]
    return [
        "documents   "
        + ", ".join(f"{documents[n]} {n}" for n in ("added", "changed", "deleted", "unchanged", "quarantined")),
        *([f"waiting     {waiting:,} changes that were found wait for the next update"] if waiting else []),
        f"chunks      {told['chunks']['added']} made, {told['chunks']['total']} in all",
        f"embeddings  {told['embeddings']['encoded']} encoded, {told['embeddings']['reused']} reused",
        f"index       {index['upserted']} rows written, {index['deleted']} removed, {index['rows']} in all",
        f"gates       {passed} of {len(gates)} passed" if gates else "gates       nothing to check",
        f"snapshot    {told['snapshot_id']} ({live})",
        f"seconds     {seconds['total']:.2f} of work (parse {seconds['parse']:.2f}, encode {seconds['encode']:.2f}, "
        f"index {seconds['index']:.2f}), {seconds['dagster']:.2f} of Dagster's own",
    ]


def complaints(outcome: JobOutcome) -> list[str]:
    """Everything that an operator must hear about, most important first."""
    found = [outcome.message] if outcome.message else []
    changes = outcome.reports.get("source_changes")
    if changes and outcome.success:
        found += [one.error for one in changes.sources if one.error]
    return found


def went_well(outcome: JobOutcome) -> bool:
    """Whether the run succeeded and every source could be read."""
    return not complaints(outcome) and outcome.success


def _gates(outcome: JobOutcome) -> Sequence[Any]:
    results: Sequence[Any] = outcome.reports.get("gates", ())
    return results
