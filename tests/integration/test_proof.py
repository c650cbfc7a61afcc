"""The proof of the index looks at what readers are answered from: stored fields, dense vectors and sparse weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import RebuildDiffers
from pipelines.index.protocol import State
from pipelines.lake import snapshots, term_statistics
from pipelines.lake.portions import Portion
from pipelines.lake.snapshots import Snapshot
from pipelines.project import Project
from pipelines.update.snapshot import agreement, candidate, gates, promotion
from pipelines.update.snapshot import rows as rows_module
from pipelines.update.snapshot.evidence import compare
from pipelines.update.snapshot.rollback import rollback
from pipelines.update.snapshot.verify import verify
from tests.updating import open_project, update

pytestmark = pytest.mark.integration

Row = dict[str, Any]
Milvus = dict[str, str]


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, milvus: Milvus) -> Project:
    """Forty documents of one chunk each, live."""
    opened = open_project(tmp_path, encoder={"model": str(tiny_model)}, milvus=milvus)
    for number in range(40):
        write(opened, number, f"Document {number}: the quay has {number + 3} cranes.")
    update(opened)
    return opened


def write(project: Project, number: int, text: str) -> None:
    (project.home.root.parent / "corpus" / f"{number:02d}.txt").write_text(text + "\n", encoding="utf-8")


def live(project: Project) -> Snapshot:
    found = snapshots.live(snapshots.history(project.lake, project.alias))
    assert found is not None
    return found


def stored(project: Project) -> list[Row]:
    """The rows of the live slot, by address."""
    rows = [row for table in project.index().stored(live(project).collection, Portion()) for row in table.to_pylist()]
    return sorted(rows, key=lambda row: str(row["uri"]))


def overwrite(project: Project, *rows: Row) -> None:
    """Write rows of the live slot through the client, and not through Lockstep."""
    client = project.index()._client  # type: ignore[attr-defined]
    sent = []
    for row in rows:
        sparse = dict(zip(row["terms"], row["weights"], strict=True))
        scalars = {name: value for name, value in row.items() if name not in ("terms", "weights")}
        sent.append({**scalars, "dense": np.asarray(row["dense"], np.float32), "sparse": sparse})
    client.upsert(live(project).collection, sent)
    project.index().wait_until_indexed(live(project).collection, 60)


def one_float(first: Row, _: Row) -> list[tuple[Row, str]]:
    changed = [*first["dense"]]
    changed[5] = float(np.nextafter(np.float32(changed[5]), np.float32(2)))
    return [({**first, "dense": changed}, "dense")]


def one_weight(first: Row, _: Row) -> list[tuple[Row, str]]:
    changed = [float(np.nextafter(np.float32(first["weights"][0]), np.float32(9))), *first["weights"][1:]]
    return [({**first, "weights": changed}, "sparse")]


def one_term(first: Row, _: Row) -> list[tuple[Row, str]]:
    return [({**first, "terms": first["terms"][1:], "weights": first["weights"][1:]}, "sparse")]


def swapped(first: Row, second: Row) -> list[tuple[Row, str]]:
    return [({**first, "dense": second["dense"]}, "dense"), ({**second, "dense": first["dense"]}, "dense")]


Damage = Callable[[Row, Row], list[tuple[Row, str]]]
DAMAGES = pytest.mark.parametrize("damage", [one_float, one_weight, one_term, swapped], ids=lambda one: one.__name__)


@DAMAGES
def test_a_vector_that_was_overwritten_is_found_and_named(project: Project, damage: Damage) -> None:
    assert verify(project).ok
    rows = stored(project)
    damaged = damage(rows[7], rows[8])
    overwrite(project, *(row for row, _ in damaged))
    report = verify(project)
    assert not report.ok
    assert report.actual_digest == report.expected_digest  # the hash of a row does not cover the bits of its vectors
    assert report.differing == len(damaged)
    named = {(row["chunk_id"], row["uri"], row["which"]) for row in report.differing_rows}
    assert named == {(row["chunk_id"], row["uri"], which) for row, which in damaged}
    assert all("expected" in row["told"] for row in report.differing_rows)
    project.kept.clear()
    results = {result.name: result for result in gates.run_gates(project, live(project).snapshot_id)}
    assert [name for name, result in results.items() if not result.passed] == ["vectors_match"]
    assert results["vectors_match"].details["failing"] == len(damaged)
    with pytest.raises(RebuildDiffers, match=rf"{damaged[0][0]['uri']}"):
        nightly(project)


def test_a_vector_that_is_not_finite_or_not_of_unit_length_in_the_slot_stops_the_gate(project: Project) -> None:
    rows = stored(project)
    overwrite(project, {**rows[3], "dense": [2 * number for number in rows[3]["dense"]]})
    project.kept.clear()
    result = gates.finite_vectors(project, live(project).snapshot_id)
    assert not result.passed
    (failing,) = result.details["failing_rows"]
    assert (failing["chunk_id"], failing["uri"]) == (rows[3]["chunk_id"], "03.txt")
    assert failing["norm"] == pytest.approx(2.0)


def test_a_snapshot_of_another_recipe_is_still_held_against_its_own_chunks_and_vectors(
    project: Project, tmp_path: Path, milvus: Milvus
) -> None:
    encoder = project.config.encoder.model_dump()
    other = open_project(tmp_path, encoder=encoder, chunking={"max_tokens": 64}, milvus=milvus)
    assert other.recipe.fingerprint != live(other).recipe_fp
    assert verify(other).ok
    rows = stored(other)
    overwrite(other, *(row for row, _ in one_float(rows[1], rows[2])))
    assert [row["uri"] for row in verify(other).differing_rows] == ["01.txt"]


def test_what_could_not_be_compared_is_said(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.update.snapshot import verify as module

    monkeypatch.setattr(module, "lost_manifest", lambda *_: True)
    report = verify(project)
    assert report.ok
    assert not report.complete
    assert "not the sparse weights" in report.compared
    rows = stored(project)
    overwrite(project, *(row for row, _ in one_float(rows[1], rows[2])))
    assert [row["uri"] for row in verify(project).differing_rows] == ["01.txt"]


def test_a_slot_that_is_rebuilt_while_it_is_read_is_read_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, real = project.index(), project.index().stored
    states: list[State] = []

    def rebuilt_meanwhile(collection: str, wanted: Portion) -> Iterator[Any]:
        if not states:
            states.append(index.read_state(collection) or {})
            index.write_state(collection, states[0])  # a new revision, as any build leaves
        return real(collection, wanted)

    monkeypatch.setattr(index, "stored", rebuilt_meanwhile)
    assert verify(project).ok
    assert len(states) == 1


def test_small_portions_find_what_large_ones_find(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare(project, live(project))
    monkeypatch.setattr(rows_module, "_PORTION_ROWS", 4)
    monkeypatch.setattr(rows_module, "_PORTIONS_A_JOIN", 3)
    monkeypatch.setattr(candidate, "_DOCUMENTS_A_JOIN", 3)
    assert len(rows_module.portions(40)) == 4
    assert compare(project, live(project)) == whole
    for number in range(0, 40, 4):
        write(project, number, f"Document {number}: the quay was closed.")
    small = update(project, "in parts")
    full = update(project, "rebuilt in parts", full=True)
    assert small.candidate.digest == full.candidate.digest
    assert small.candidate.rows == full.candidate.rows == 40
    statistics = [term_statistics.find(project.lake, one.candidate.snapshot_id) for one in (small, full)]
    assert repr(statistics[0]) == repr(statistics[1])
    assert verify(project).ok


# --- a rebuild against the incremental index ---


def nightly(project: Project, run_id: str = "nightly", *, before_candidate: Callable[[], None] = lambda: None) -> str:
    """What the job nightly_rebuild does with the index; returns the snapshot."""
    before_candidate()
    with project.writer(run_id, "nightly"):
        built = candidate.build_candidate(project, run_id=run_id, full=True)
        results = [*gates.run_gates(project, built.snapshot_id), agreement.agreement(project, built.snapshot_id)]
        gates.record_gates(project, built.snapshot_id, results, run_id=run_id)
        agreement.require_agreement(built.snapshot_id, results[-1])
        gates.require(built.snapshot_id, results)
        promotion.promote(project, built.snapshot_id, run_id=run_id)
    return built.snapshot_id


def test_a_rebuild_that_agrees_goes_live(project: Project) -> None:
    before = live(project)
    rebuilt = nightly(project)
    assert live(project).snapshot_id == rebuilt
    result = live(project).gates[snapshots.AGREEMENT]
    assert result["live_snapshot"] == before.snapshot_id
    assert result["incremental_digest"] == result["rebuilt_digest"] == before.digest


def test_documents_that_changed_since_the_live_snapshot_are_no_difference(project: Project) -> None:
    write(project, 5, "Document 5: rewritten.")
    write(project, 77, "A new one.")
    (project.home.root.parent / "corpus" / "09.txt").unlink()
    with pytest.raises(InterruptedError):
        update(project, "stopped", before=stop_at_candidate)
    rebuilt = nightly(project)
    assert live(project).snapshot_id == rebuilt
    assert live(project).gates[snapshots.AGREEMENT]["changed_since"] == 3


def stop_at_candidate(step: str) -> None:
    if step == "candidate":
        raise InterruptedError


def removed(project: Project, row: Row) -> None:
    project.index().delete(live(project).collection, [row["chunk_id"]])


def altered(project: Project, row: Row) -> None:
    overwrite(project, {**row, "title": "Something else"})


@pytest.mark.parametrize("moved", [False, True], ids=["same manifest", "manifest moved on"])
@pytest.mark.parametrize("drift", [removed, altered])
def test_a_drift_of_the_live_slot_stops_the_rebuild_names_it_and_keeps_both(
    project: Project, drift: Callable[[Project, Row], None], moved: bool
) -> None:
    before, row = live(project), stored(project)[11]
    drift(project, row)
    if moved:
        write(project, 5, "Document 5: rewritten.")
        with pytest.raises(InterruptedError):
            update(project, "stopped", before=stop_at_candidate)
    with pytest.raises(RebuildDiffers, match=r"11\.txt.*lockstep rollback"):
        nightly(project)
    assert live(project).snapshot_id == before.snapshot_id
    kept = snapshots.history(project.lake, project.alias)[-1]
    assert kept.status == "diverged"
    assert kept.gates[snapshots.AGREEMENT]["differing_documents"] == ["11.txt"]
    held = project.index().read_state(kept.collection)
    assert held is not None
    assert held["snapshot_id"] == kept.snapshot_id


def test_a_candidate_that_was_computed_wrongly_is_found_by_the_rebuild(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest's feed loses a document: slot, record and gates of the incremental update agree with each other."""
    real = candidate.manifest.changes_between

    def loses_one(*args: Any, **options: Any) -> Any:
        changes = real(*args, **options)
        if changes is None or len(changes.doc_ids) < 2:
            return changes
        return replace(changes, before=changes.before.slice(1), after=changes.after.slice(1))

    update(project, "the other slot is filled", full=True)
    write(project, 5, "Document 5: rewritten.")
    write(project, 6, "Document 6: rewritten.")
    with monkeypatch.context() as patched:
        patched.setattr(candidate.manifest, "changes_between", loses_one)
        assert update(project, "loses one").promotion.promoted
    with pytest.raises(RebuildDiffers, match=r"0[56]\.txt"):
        nightly(project)


def test_updates_go_on_beside_what_is_kept_and_an_operator_decides(project: Project) -> None:
    removed(project, stored(project)[11])
    with pytest.raises(RebuildDiffers):
        nightly(project)
    kept = snapshots.history(project.lake, project.alias)[-1]
    for number in range(3):
        write(project, 5, f"Document 5: version {number}.")
        done = update(project, f"beside {number}")
        assert done.promotion.promoted
        assert done.promotion.collection != kept.collection
    assert snapshots.find(snapshots.history(project.lake, project.alias), kept.snapshot_id).status == "diverged"
    report = rollback(project, kept.snapshot_id, run_id="decided")
    assert not report.rebuilt
    assert live(project).snapshot_id == kept.snapshot_id
    assert verify(project).ok
    write(project, 5, "Document 5: at last.")
    update(project, "one slot is spare")
    write(project, 5, "Document 5: for good.")
    update(project, "and goes")
    assert len([name for name in project.index().collections() if name.startswith(project.alias)]) == 2
