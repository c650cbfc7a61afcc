"""Which snapshot a rollback without an id goes back to."""

from __future__ import annotations

import pytest

from pipelines.errors import SnapshotNotFound
from pipelines.lake.snapshots import Snapshot, find
from pipelines.update.snapshot.rollback import _target
from tests.fakes import snapshots


def snapshot(number: int, parent: int | None = None, **fields: object) -> Snapshot:
    made = {
        "sequence": number,
        "parent": f"s{parent}" if parent else None,
        "kind": "incremental",
        "manifest_version": number,
        "digest": f"d{number}",
        "status": "retired",
        **fields,
    }
    return snapshots.snapshot(f"s{number}", **made)


def back_from(history: list[Snapshot], live: str) -> str:
    return _target(history, find(history, live), None).snapshot_id


def test_it_goes_back_to_the_parent_and_not_to_the_number_before() -> None:
    history = [snapshot(1), snapshot(2, 1), snapshot(3, 1, status="live")]
    assert back_from(history, "s3") == "s1"


def test_going_back_again_goes_one_further() -> None:
    history = [snapshot(1), snapshot(2, 1, status="live"), snapshot(3, 2)]
    assert back_from(history, "s2") == "s1"


def test_a_snapshot_that_was_built_again_goes_back_to_the_parent_of_the_one_it_brought_back() -> None:
    again = snapshot(4, 3, kind="rollback", manifest_version=2, digest="d2", status="live")
    history = [snapshot(1), snapshot(2, 1), snapshot(3, 2), again]
    assert back_from(history, "s4") == "s1"


def test_an_update_after_a_rollback_that_was_built_again_goes_back_to_that() -> None:
    again = snapshot(4, 3, kind="rollback", manifest_version=2, digest="d2")
    history = [snapshot(1), snapshot(2, 1), snapshot(3, 2), again, snapshot(5, 4, status="live")]
    assert back_from(history, "s5") == "s4"


def test_a_parent_that_readers_never_saw_is_passed_over() -> None:
    history = [snapshot(1), snapshot(2, 1, status="rejected"), snapshot(3, 2, status="live")]
    assert back_from(history, "s3") == "s1"


def test_a_rollback_of_the_first_snapshot_itself_ends() -> None:
    again = snapshot(2, 1, kind="rollback", manifest_version=1, digest="d1", status="live")
    with pytest.raises(SnapshotNotFound, match="name one to go to"):
        back_from([snapshot(1), again], "s2")


def test_a_parent_that_the_table_no_longer_has_is_an_error_and_no_guess() -> None:
    with pytest.raises(SnapshotNotFound, match="no snapshot was live before s3"):
        back_from([snapshot(2, 1), snapshot(3, 1, status="live")], "s3")
