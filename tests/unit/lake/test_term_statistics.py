"""Term statistics: what a snapshot stores of them, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake

from pipelines.errors import SnapshotNotFound
from pipelines.lake import term_statistics
from pipelines.lake.schemas import TERM_STATISTICS
from pipelines.lake.tables import Lake
from pipelines.lake.term_statistics import Statistics

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
    statistics = term_statistics.counted(
        {}, {t: pa.chunked_array([c for r in held[t] for c in r.chunks]) for t in held}
    )
    term_statistics.write(lake, "s0", statistics, run_id="r")
    kept = [statistics]
    for number in range(1, 80):
        for tenant in ("alpha", "beta") if number % 3 else ("beta",):
            gone, came = held[tenant].pop(int(rng.integers(len(held[tenant])))), terms(rng, 1)
            held[tenant].append(came)
            statistics = term_statistics.counted(statistics, {tenant: gone}, sign=-1)
            statistics = term_statistics.counted(statistics, {tenant: came})
        since = f"s{number - 2}" if number > 1 else "s0"  # two slots: each goes on from the one before the last
        term_statistics.write(lake, f"s{number}", statistics, since=since, run_id="r")
        kept.append(statistics)
    for number, expected in enumerate(kept):
        found = term_statistics.find(lake, f"s{number}")
        assert found is not None
        assert same(found, expected)
        own = term_statistics.read(lake, f"s{number}", "alpha")
        assert same({"alpha": own}, {"alpha": expected["alpha"]})
    whole = {tenant: pa.chunked_array([c for row in rows for c in row.chunks]) for tenant, rows in held.items()}
    recounted = term_statistics.counted({}, whole)
    assert same(recounted, kept[-1])
    assert term_statistics.stored(lake) == {f"s{number}" for number in range(80)}
    stored = pc.sum(pc.list_value_length(lake.read("term_statistics")["terms"])).as_py()
    at_first = sum(len(one.terms) for one in kept[0].values())
    assert stored < 80 * at_first / 5  # one in a hundred terms changes each time


def test_a_tenant_that_comes_or_goes_is_in_the_difference(tmp_path: Path) -> None:
    rng, lake = np.random.default_rng(4), Lake(tmp_path)
    first = term_statistics.counted({}, {"alpha": terms(rng, 200), "beta": terms(rng, 1)})
    term_statistics.write(lake, "s0", first, run_id="r")
    second = {"alpha": first["alpha"], **term_statistics.counted({}, {"gamma": terms(rng, 2)})}
    term_statistics.write(lake, "s1", second, since="s0", run_id="r")
    found = term_statistics.find(lake, "s1")
    assert found is not None
    assert same(found, second)
    assert term_statistics.read(lake, "s1", "beta").rows == 0
    assert term_statistics.read(lake, "s1", "gamma").rows == 2
    needed = term_statistics.needed(lake, pa.array(["s1"]))
    assert set(needed.to_pylist()) == {"s1", "base-s0"}


def test_an_index_without_rows_has_statistics_and_an_unknown_snapshot_has_none(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    term_statistics.write(lake, "empty", {}, run_id="r")
    assert term_statistics.find(lake, "empty") == {}
    assert term_statistics.read(lake, "empty", "default").rows == 0
    assert term_statistics.find(lake, "never") is None
    with pytest.raises(SnapshotNotFound):
        term_statistics.read(lake, "never", "default")


@pytest.mark.parametrize("written_in", [7, 100_000], ids=["in ranges", "all in one row"])
def test_some_terms_are_read_as_all_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_in: int) -> None:
    monkeypatch.setattr("pipelines.lake.term_statistics._TERMS_A_ROW", written_in)
    rng, lake = np.random.default_rng(5), Lake(tmp_path)
    first = term_statistics.counted({}, {"alpha": terms(rng, 300), "beta": terms(rng, 40)})
    term_statistics.write(lake, "s0", first, run_id="r")
    second = term_statistics.counted(first, {"alpha": terms(rng, 3)})
    term_statistics.write(lake, "s1", second, since="s0", run_id="r")
    for tenant, expected in second.items():
        for count in (0, 1, 5, 60):
            asked = np.unique(rng.integers(0, 2 * VOCABULARY, count))
            found = term_statistics.read(lake, "s1", tenant, terms=asked)
            assert found.rows == expected.rows
            assert np.array_equal(found.frequencies_of(asked), expected.frequencies_of(asked))
            assert set(found.terms.tolist()) <= set(asked.tolist())
    assert term_statistics.read(lake, "s1", "gamma", terms=np.array([1])).rows == 0
    with pytest.raises(SnapshotNotFound):
        term_statistics.read(lake, "never", "alpha", terms=np.array([1]))


def test_a_question_reads_the_ranges_of_its_terms_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.lake.term_statistics._TERMS_A_ROW", 10)
    rng, lake = np.random.default_rng(6), Lake(tmp_path)
    term_statistics.write(lake, "s0", term_statistics.counted({}, {"alpha": terms(rng, 400)}), run_id="r")
    every = lake.read(term_statistics.TABLE).num_rows
    read: list[int] = []
    original = lake.read

    def watched(*arguments: Any, **options: Any) -> pa.Table:
        found = original(*arguments, **options)
        read.append(found.num_rows)
        return found

    monkeypatch.setattr(lake, "read", watched)
    term_statistics.read(lake, "s0", "alpha", terms=np.array([17, 4_000]))
    assert every > 100
    assert sum(read) <= 5


def test_statistics_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """One row a tenant, without the columns that say which terms it has."""
    rng, lake = np.random.default_rng(7), Lake(tmp_path)
    counted = term_statistics.counted({}, {"alpha": terms(rng, 300), "beta": terms(rng, 40)})
    told = [
        {"snapshot_id": name, "tenant": tenant, "base": base, "rows": one.rows, "terms": known, "frequencies": counts}
        for tenant, one in counted.items()
        for name, base, known, counts in (("b", None, one.terms, one.frequencies), ("s", "b", [], []))
    ]
    schema = pa.schema([f for f in TERM_STATISTICS if f.name not in ("first_term", "last_term")])
    write_deltalake(lake.uri(term_statistics.TABLE), pa.Table.from_pylist(told, schema=schema))
    found = term_statistics.find(lake, "s")
    assert found is not None
    assert same(found, counted)
    asked = counted["beta"].terms[:3]
    some = term_statistics.read(lake, "s", "beta", terms=asked)
    assert np.array_equal(some.frequencies, counted["beta"].frequencies[:3])
    changed = term_statistics.counted(counted, {"beta": terms(rng, 1)})
    term_statistics.write(lake, "t", changed, since="s", run_id="r")
    again = term_statistics.find(lake, "t")
    assert again is not None
    assert same(again, changed)
