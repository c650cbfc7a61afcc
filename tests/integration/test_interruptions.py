"""An update or a rollback that is killed anywhere: nothing half-applied is seen, and the following run ends right.

The library's steps run in a process of their own that kills itself at one of its commit points; the following run is
another process. Milvus Lite and Delta are real.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.integration._commit_points import How
from tests.integration._desk import Desk, desk_in
from tests.integration._forkserver import ForkServer
from tests.integration._stages import Stages, State

pytestmark = pytest.mark.integration

FIRST_BUILD = [
    "put blob",
    "put blob #4",
    "append change_events",
    "append acl_sets",
    "stage changes",
    "stage sources",
    "stage reach",
    "append elements",
    "append documents",
    "stage census",
    "append document_versions",
    "append chunks",
    "append embeddings",
    "stage reach #2",
    "index drop",
    "index create",
    "index upsert",
    "append term_statistics",
    "replace index_snapshots",
    "index write_state complete",
    "stage candidate",
    "replace index_snapshots #2",
    "append audit_log",
    "index point_alias",
    "replace index_snapshots #3",
]

# Added, edited, renamed, deleted, unreadable, and other readers for a folder, in one update.
CHANGE = [
    "put blob",
    "put blob #6",
    "append change_events",
    "append acl_sets",
    "stage changes",
    "stage sources",
    "stage reach",
    "append elements",
    "append dead_letters",
    "merge documents",
    "stage census",
    "append document_versions",
    "append chunks",
    "append embeddings",
    "stage reach #2",
    "index write_state building",
    "index upsert",
    "index delete",
    "append term_statistics",
    "replace index_snapshots",
    "index write_state complete",
    "stage candidate",
    "replace index_snapshots #2",
    "append audit_log",
    "index point_alias",
    "replace index_snapshots #3",
]

# The others' halves are those of a first build.
CHANGE_HALVES = [
    "append elements",
    "merge documents",
    "append chunks",
    "index upsert",
    "index delete",
    "replace index_snapshots",
]

ROLLBACK = ["append audit_log", "index point_alias", "replace index_snapshots"]

# To a snapshot whose slot was reused.
ROLLBACK_FROM_THE_TABLES = [
    "index drop",
    "index create",
    "index upsert",
    "append term_statistics",
    "replace index_snapshots",
    "index write_state complete",
    "stage candidate",
    "replace index_snapshots #2",
    "append audit_log",
    "index point_alias",
    "replace index_snapshots #3",
]

_ONE_ACT = frozenset({"index create", "index write_state complete", "index point_alias"})


def cases(points: list[str], halves: Iterable[str] | None = None) -> list[object]:
    """Each point, before it and half-way through it (all, or those named); what is one act has no half."""
    divided = set(points) - _ONE_ACT if halves is None else set(halves)
    found: list[object] = []
    for point in points:
        found.append(pytest.param(point, "before", id=f"before {point}"))
        if point in divided:
            found.append(pytest.param(point, "half-way", id=f"half-way through {point}"))
    return found


def without_repeats(points: list[str]) -> list[str]:
    """Of a run of the same act in a row, the first and the last."""
    acts = [None, *(point.partition(" #")[0] for point in points), None]
    return [point for point, *around in zip(points, acts, acts[1:], acts[2:], strict=False) if len(set(around)) > 1]


def is_after_the_swap(points: list[str], point: str) -> bool:
    return points.index(point) > points.index("index point_alias")


def test_the_lists_of_points_are_complete(stages: Stages) -> None:
    nothing, (first, second, third) = State(stages.empty[0]), stages.built
    assert without_repeats(stages.points(nothing, "update", first.config)) == FIRST_BUILD
    assert without_repeats(stages.points(second, "update", third.config)) == CHANGE
    assert without_repeats(stages.points(third, "rollback", third.config)) == ROLLBACK
    long_ago = stages.points(third, "rollback", third.config, snapshot_id=first.snapshot_id)
    assert without_repeats(long_ago) == ROLLBACK_FROM_THE_TABLES


@pytest.mark.parametrize(("point", "how"), cases(FIRST_BUILD))
def test_a_first_build_that_is_killed_shows_nothing_and_is_finished_by_the_next(
    stages: Stages, point: str, how: How
) -> None:
    first = stages.built[0]
    home, ended = stages.killed(State(first.config), "update", first.config, point, how)
    assert ended.signal == signal.SIGKILL, ended.error
    found = stages.recovered(first.config, home)
    assert found["before"] == (first.visible if is_after_the_swap(FIRST_BUILD, point) else None)
    check_recovered(found, first)


@pytest.mark.parametrize(("point", "how"), cases(CHANGE, CHANGE_HALVES))
def test_an_update_that_is_killed_leaves_the_old_snapshot_whole_and_is_finished_by_the_next(
    stages: Stages, point: str, how: How
) -> None:
    _, second, third = stages.built
    home, ended = stages.killed(second, "update", third.config, point, how)
    assert ended.signal == signal.SIGKILL, ended.error
    found = stages.recovered(third.config, home)
    assert found["before"] == (third if is_after_the_swap(CHANGE, point) else second).visible
    check_recovered(found, third)


@pytest.mark.parametrize(("point", "how"), cases(ROLLBACK))
def test_a_rollback_that_is_killed_is_done_or_not_and_nothing_between(stages: Stages, point: str, how: How) -> None:
    _, second, third = stages.built
    home, ended = stages.killed(third, "rollback", third.config, point, how)
    assert ended.signal == signal.SIGKILL, ended.error
    found = stages.recovered(third.config, home)
    live = second if is_after_the_swap(ROLLBACK, point) else third
    assert found["before"] == live.visible
    check_recovered(found, live)  # a rollback stays until something new is found


@pytest.mark.parametrize(("point", "how"), cases(ROLLBACK_FROM_THE_TABLES, ["index drop", "index upsert"]))
def test_a_rollback_from_the_tables_that_is_killed_is_done_or_not_and_nothing_between(
    stages: Stages, point: str, how: How
) -> None:
    first, _, third = stages.built
    home, ended = stages.killed(third, "rollback", third.config, point, how, snapshot_id=first.snapshot_id)
    assert ended.signal == signal.SIGKILL, ended.error
    found = stages.recovered(third.config, home)
    live = first if is_after_the_swap(ROLLBACK_FROM_THE_TABLES, point) else third
    assert found["before"] == live.visible
    check_recovered(found, live)


def check_recovered(found: dict[str, object], expected: State) -> None:
    assert found["digest"] == expected.digest, "as a clean build of the same corpus in a fresh home"
    assert found["after"] == expected.visible
    proof = found["verify"]
    assert isinstance(proof, dict)
    assert proof["ok"], proof


@pytest.mark.parametrize("point", ["index delete", "append term_statistics", "index write_state complete"])
def test_what_a_killed_update_wrote_goes_when_the_source_is_again_as_it_was(stages: Stages, point: str) -> None:
    _, second, third = stages.built
    home, ended = stages.killed(second, "update", third.config, point, "before")
    assert ended.signal == signal.SIGKILL, ended.error
    stages.result("update", second.config, home)  # the edits are undone, what came is gone again
    found = stages.recovered(third.config, home)  # and done once more
    assert found["before"] == second.visible
    check_recovered(found, third)


@pytest.mark.parametrize("point", ["stage candidate", "replace index_snapshots #2"])
def test_the_gates_look_at_what_a_killed_update_wrote(stages: Stages, point: str) -> None:
    _, second, third = stages.built
    home, ended = stages.killed(second, "update", third.config, point, "before")
    assert ended.signal == signal.SIGKILL, ended.error
    slot = stages.result("damage_a_row", third.config, home, uri="travel.md")
    refused = stages.run("update", third.config, home)
    assert "digest_parity" in str(refused.error)
    assert "lockstep update --full" in str(refused.error)
    found = stages.recovered(third.config, home)
    assert found["before"] == second.visible
    assert slot in found["collection"], "the rejected slot was built from nothing"
    check_recovered(found, third)


# --- the command itself, with Dagster around the steps and worker processes for the parsing ---


@pytest.fixture(scope="module")
def desk(server: ForkServer, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Desk]:
    with desk_in(server, tmp_path_factory.mktemp("desk"), tiny_model) as found:
        found.write(leave_md="# Leave\n\nThirty days.\n", travel_md="# Travel\n\nBy train.\n")
        found.update()
        yield found


@pytest.mark.parametrize("point", ["put blob", "append elements", "append embeddings"])
def test_ctrl_c_ends_the_command_with_a_word_and_the_next_update_goes_on(desk: Desk, point: str) -> None:
    before = desk.visible()
    desk.edit()
    told = desk.lockstep("update", at=point, strike_by="SIGINT")
    assert told.status in (1, 130)
    assert "interrupted" in told.err
    assert "next update goes on" in told.err
    assert "Traceback" not in told.err
    assert desk.visible() == before
    desk.update()
    desk.check_in_step()


def test_a_killed_command_holds_nothing_and_the_next_goes_on(desk: Desk) -> None:
    before = desk.visible()
    desk.edit()
    assert desk.lockstep("update", at="append chunks").status == -signal.SIGKILL
    assert desk.visible() == before
    told = desk.lockstep("update", "--json")
    assert told.status == 0, told.err
    assert told.json["promoted"]
    desk.check_in_step()


def test_a_second_update_is_told_who_writes_and_the_first_ends_well(desk: Desk) -> None:
    desk.edit()
    told = desk.lockstep("update", at="append elements", meanwhile=["update", "--config", str(desk.config)])
    assert told.status == 0, told.err
    status, _, message = (desk.folder / "terminal.meanwhile").read_text(encoding="utf-8").partition("\n")
    assert status == "1"
    assert str(desk.home.writer_lock) in message
    assert "incremental_update" in message
    assert "wait until it ends" in message
    assert "Traceback" not in message
    desk.check_in_step()
