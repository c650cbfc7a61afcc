"""The record of snapshots: what an update reads of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from pipelines.lake import snapshots
from pipelines.lake.tables import Lake
from tests.fakes.snapshots import snapshot


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


def test_no_settled_status_lies_between_the_unsettled_ones() -> None:
    """They are looked for as one range of the log's statistics."""
    unsettled = snapshots._UNSETTLED
    assert list(unsettled) == sorted(unsettled)
    settled = set(get_args(snapshots.Status)) - set(unsettled)
    assert not any(unsettled[0] <= status <= unsettled[-1] for status in settled)
    assert set(unsettled) <= set(get_args(snapshots.Status))
