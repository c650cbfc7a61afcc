"""Term statistics: what a snapshot stores of them, and what comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.errors import SnapshotNotFound
from pipelines.lake import snapshots
from pipelines.lake.snapshots import Statistics
from pipelines.lake.tables import Lake
from tests.fakes.snapshots import snapshot

VOCABULARY = 5_000


def terms(rng: np.random.Generator, rows: int) -> pa.ChunkedArray:
    return pa.chunked_array(
        [[np.unique(rng.integers(0, VOCABULARY, 20)).tolist() for _ in range(rows)]], pa.list_(pa.int64())
    )


def same(one: Statistics, other: Statistics) -> bool:
    return one.keys() == other.keys() and all(
        one[tenant].rows == other[tenant].rows
        and np.array_equal(one[tenant].terms, other[tenant].terms)
        and np.array_equal(one[tenant].frequencies, other[tenant].frequencies)
        for tenant in one
    )


def test_statistics_carried_forward_are_those_that_a_recount_gives_and_grow_by_what_changed(tmp_path: Path) -> None:
    rng, lake = np.random.default_rng(3), Lake(tmp_path)
    held = {tenant: [terms(rng, 1) for _ in range(400)] for tenant in ("alpha", "beta")}
    statistics = snapshots.counted({}, {t: pa.chunked_array([c for r in held[t] for c in r.chunks]) for t in held})
    snapshots.write_term_statistics(lake, "s0", statistics, run_id="r")
    kept = [statistics]
    for number in range(1, 80):
        for tenant in ("alpha", "beta") if number % 3 else ("beta",):
            gone, came = held[tenant].pop(int(rng.integers(len(held[tenant])))), terms(rng, 1)
            held[tenant].append(came)
            statistics = snapshots.counted(statistics, {tenant: gone}, sign=-1)
            statistics = snapshots.counted(statistics, {tenant: came})
        since = f"s{number - 2}" if number > 1 else "s0"  # two slots: each goes on from the one before the last
        snapshots.write_term_statistics(lake, f"s{number}", statistics, since=since, run_id="r")
        kept.append(statistics)
    for number, expected in enumerate(kept):
        found = snapshots.find_term_statistics(lake, f"s{number}")
        assert found is not None
        assert same(found, expected)
        own = snapshots.read_term_statistics(lake, f"s{number}", "alpha")
        assert same({"alpha": own}, {"alpha": expected["alpha"]})
    recounted = snapshots.counted({}, {t: pa.chunked_array([c for r in held[t] for c in r.chunks]) for t in held})
    assert same(recounted, kept[-1])
    assert snapshots.with_statistics(lake) == {f"s{number}" for number in range(80)}
    stored = pc.sum(pc.list_value_length(lake.read("term_statistics")["terms"])).as_py()
    whole = sum(len(one.terms) for one in kept[0].values())
    assert stored < 80 * whole / 5  # one in a hundred terms changes each time


def test_a_tenant_that_comes_or_goes_is_in_the_difference(tmp_path: Path) -> None:
    rng, lake = np.random.default_rng(4), Lake(tmp_path)
    first = snapshots.counted({}, {"alpha": terms(rng, 200), "beta": terms(rng, 1)})
    snapshots.write_term_statistics(lake, "s0", first, run_id="r")
    second = {"alpha": first["alpha"], **snapshots.counted({}, {"gamma": terms(rng, 2)})}
    snapshots.write_term_statistics(lake, "s1", second, since="s0", run_id="r")
    found = snapshots.find_term_statistics(lake, "s1")
    assert found is not None
    assert same(found, second)
    assert snapshots.read_term_statistics(lake, "s1", "beta").rows == 0
    assert snapshots.read_term_statistics(lake, "s1", "gamma").rows == 2
    needed = snapshots.statistics_needed(lake, pa.array(["s1"]))
    assert set(needed.to_pylist()) == {"s1", "base-s0"}


def test_an_index_without_rows_has_statistics_and_an_unknown_snapshot_has_none(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    snapshots.write_term_statistics(lake, "empty", {}, run_id="r")
    assert snapshots.find_term_statistics(lake, "empty") == {}
    assert snapshots.read_term_statistics(lake, "empty", "default").rows == 0
    assert snapshots.find_term_statistics(lake, "never") is None
    with pytest.raises(SnapshotNotFound):
        snapshots.read_term_statistics(lake, "never", "default")


def test_what_an_update_reads_does_not_grow_with_the_snapshots_there_were(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    old = [snapshot(f"s{n:04d}", sequence=n, status="retired") for n in range(1, 301)]
    old[4] = replace(old[4], status="live")
    old[9] = replace(old[9], status="diverged")
    snapshots.record(lake, *old, snapshot("other", sequence=900, index_name="another"))
    name = old[0].index_name
    recent = [one.snapshot_id for one in snapshots.recent(lake, name)]
    assert recent == ["s0005", "s0010", *(f"s{n:04d}" for n in range(269, 301))]
    assert snapshots.live(snapshots.recent(lake, name)) == snapshots.by_id(lake, name, "s0005")
    assert len(snapshots.history(lake, name)) == 300
    found = snapshots.by_id(lake, name, "s0100")
    assert found is not None
    assert found.sequence == 100
    assert snapshots.by_id(lake, name, "s01") is None
    assert snapshots.recent(lake, "unknown") == []
