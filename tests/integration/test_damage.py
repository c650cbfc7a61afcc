"""A data folder that lost something: the message names it and the next step, and the following run ends right."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.identity import content_hash
from pipelines.lake.schemas import TABLES
from tests.integration._desk import Desk, desk_in
from tests.integration._forkserver import ForkServer
from tests.integration._stages import SECOND, Stages, State

pytestmark = pytest.mark.integration

Damage = Callable[[Path], None]


def begin(stages: Stages, state: State) -> Path:
    """A fresh data folder and index in that state."""
    home = stages.home_as_in(state)
    stages.result("put_slots_back", state.config, home, saved=state.slots)
    return home


def check_right(stages: Stages, home: Path, expected: State, *, digest: bool = True) -> None:
    found = stages.recovered(expected.config, home)
    assert found["after"] == expected.visible
    assert found["verify"]["ok"], found["verify"]
    assert not digest or found["digest"] == expected.digest


# --- tables ---


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_gone_is_made_again_by_the_next_update(stages: Stages, table: str) -> None:
    _, second, third = stages.built
    home = begin(stages, second)
    shutil.rmtree(home / "lake" / table, ignore_errors=True)
    stages.result("update", third.config, home)
    check_right(stages, home, third)


def test_while_the_access_sets_are_lost_nobody_sees_more_than_before(stages: Stages) -> None:
    _, second, third = stages.built
    home = begin(stages, second)
    shutil.rmtree(home / "lake" / "acl_sets")
    assert stages.result("visible", second.config, home) is None
    # Today's sets are in the table from the first step on, under the numbers that the rows carry.
    assert stages.killed_in(home, "update", third.config, "append elements", "before").signal == signal.SIGKILL
    assert set(stages.result("visible", second.config, home)) <= set(second.visible or ())
    check_right(stages, home, third)


def corrupt_the_log(folder: Path) -> None:
    newest = max((folder / "_delta_log").glob("*.json"))
    newest.write_text('{"add": {"path": ')


def remove_the_log(folder: Path) -> None:
    shutil.rmtree(folder / "_delta_log")


def remove_a_data_file(folder: Path) -> None:
    for file in folder.rglob("*.parquet"):
        file.unlink()


@pytest.mark.parametrize("damage", [corrupt_the_log, remove_the_log, remove_a_data_file])
@pytest.mark.parametrize("table", ["documents", "acl_sets", "chunks", "embeddings", "index_snapshots", "audit_log"])
def test_a_damaged_table_is_named_with_the_way_out_and_the_way_works(
    stages: Stages, table: str, damage: Damage
) -> None:
    _, second, third = stages.built
    home = begin(stages, second)
    folder = home / "lake" / table
    damage(folder)
    ended = stages.run("update", third.config, home)
    message = str(ended.error).partition("LakeError: ")[2]
    assert f"table {table!r}" in message
    assert str(home / "lake") in message
    assert "restore" in message
    assert "lockstep update --full" in message
    seen = stages.run("visible", second.config, home)
    assert seen.result == second.visible or (table == "acl_sets" and "table 'acl_sets'" in str(seen.error))
    shutil.rmtree(folder)
    stages.result("update", third.config, home, full=True)
    check_right(stages, home, third, digest=table != "acl_sets")


def test_a_manifest_from_an_older_backup_is_not_taken_for_the_one_that_is_live(stages: Stages) -> None:
    first, second, third = stages.built
    home = begin(stages, third)
    shutil.rmtree(home / "lake" / "documents")
    assert first.home is not None
    shutil.copytree(first.home / "lake" / "documents", home / "lake" / "documents")
    stages.result("update", second.config, home)
    check_right(stages, home, third)


def test_a_snapshot_that_the_tables_forgot_is_served_and_verify_tells_what_to_do(stages: Stages) -> None:
    _, _, third = stages.built
    home = begin(stages, third)
    shutil.rmtree(home / "lake" / "index_snapshots")
    assert stages.result("visible", third.config, home) == third.visible
    message = str(stages.run("verified", third.config, home).error)
    assert "index_snapshots" in message
    assert "run `lockstep update`" in message
    check_right(stages, home, third)


# --- staging and blobs ---


def test_without_the_staging_folder_an_update_begins_anew(stages: Stages) -> None:
    _, second, third = stages.built
    home = begin(stages, second)
    shutil.rmtree(home / "staging")
    check_right(stages, home, third)


def test_lost_blobs_are_missed_only_when_something_must_be_parsed_again_and_a_full_update_fetches_them(
    stages: Stages,
) -> None:
    _, second, third = stages.built
    home = begin(stages, second)
    shutil.rmtree(home / "blobs")
    stages.result("update", third.config, home)
    shutil.rmtree(home / "blobs")
    shutil.rmtree(home / "lake" / "elements")
    ended = stages.run("update", third.config, home)
    assert "blob " in str(ended.error)
    assert "lockstep update --full" in str(ended.error)
    assert stages.result("visible", third.config, home) == third.visible
    stages.result("update", third.config, home, full=True)
    check_right(stages, home, third)


def test_a_damaged_blob_is_named_and_never_parsed(stages: Stages) -> None:
    _, second, _ = stages.built
    home = begin(stages, second)
    shutil.rmtree(home / "lake" / "elements")
    key = content_hash(SECOND["travel.md"].encode())
    blob = home / "blobs" / key[:2] / key
    blob.write_bytes(b"?" * blob.stat().st_size)
    ended = stages.run("update", second.config, home)
    assert f"blob {blob.name}" in str(ended.error)
    assert f"delete {blob}" in str(ended.error)
    blob.unlink()
    stages.result("update", second.config, home, full=True)
    check_right(stages, home, second)


# --- the index ---


@pytest.fixture(scope="module")
def desk(server: ForkServer, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Desk]:
    """Two snapshots of two documents, on a Milvus Lite process of its own."""
    with desk_in(server, tmp_path_factory.mktemp("desk"), tiny_model) as found:
        found.write(leave_md="# Leave\n\nThirty days.\n", travel_md="# Travel\n\nBy train.\n")
        found.update()
        found.edit()
        found.update()
        yield found


@pytest.mark.parametrize(
    ("lost", "running"),
    [
        *((lost, True) for lost in ("index folder", "live slot", "idle slot")),
        *(
            (lost, False)
            for lost in ("index folder", "live slot", "idle slot", "aliases", "data files of the live slot")
        ),
    ],
    ids=lambda value: {True: "while Milvus Lite runs", False: "while it is stopped"}.get(value, value),
)
def test_a_damaged_index_is_built_again_from_the_tables(desk: Desk, lost: str, running: bool) -> None:
    expected = desk.visible()
    data = desk.home.index / "milvus"
    live, idle = desk.slot_folder(live=True), desk.slot_folder(live=False)
    if not running:
        desk.lockstep("stop")
    if lost == "aliases":
        (data / "aliases.json").unlink()
    elif lost == "data files of the live slot":
        for file in (live / "partitions").rglob("*.parquet"):
            file.unlink()
    else:
        shutil.rmtree({"index folder": desk.home.index, "live slot": live, "idle slot": idle}[lost])
    seen = desk.lockstep("query", "leave", "--as", "group:staff", "--mode", "dense", "--json")
    if seen.status:
        assert "lockstep update" in seen.err
    else:
        assert len(seen.json["hits"]) == 2, "what runs may still have it in memory"
    assert desk.update()["encoded"] == 0
    assert desk.visible() == expected
    for _ in range(2):  # both slots are usable again
        desk.edit()
        desk.update()
    desk.check_in_step()


def test_a_killed_milvus_lite_is_started_again_by_the_next_command(desk: Desk) -> None:
    desk.visible()
    process = psutil.Process(desk.milvus)
    process.kill()
    process.wait()
    assert desk.lockstep("query", "leave", "--as", "group:staff", "--mode", "dense", "--json").json["hits"]
    desk.check_in_step()


@pytest.mark.parametrize("point", ["index write_state building", "index upsert", "index delete", "index point_alias"])
def test_milvus_lite_killed_in_the_middle_of_an_update_is_named_and_the_next_update_goes_on(
    desk: Desk, point: str
) -> None:
    before = desk.visible()
    desk.edit()
    message = desk.update_while_dies(desk.milvus, at=point)
    assert "IndexUnavailable" in message
    assert "run the command again" in message
    assert desk.visible() == before
    desk.update()
    desk.check_in_step()


def test_the_command_survives_a_kill_of_milvus_lite_in_its_middle(desk: Desk) -> None:
    desk.visible()
    desk.edit()
    told = desk.lockstep("update", "--json", at="index upsert", victim=desk.milvus)
    assert told.status == 0, told.err
    assert told.json["promoted"]
    desk.check_in_step()


def test_an_index_folder_that_another_process_holds_is_named_with_that_process(desk: Desk) -> None:
    desk.lockstep("stop")
    lock = desk.home.index / "milvus" / "LOCK"
    holder = subprocess.Popen(["flock", str(lock), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write(b"held\n")
        holder.stdin.flush()
        holder.stdout.readline()
        told = desk.lockstep("verify")
        assert told.status == 1
        assert "another process" in told.err
        assert str(lock.parent) in told.err
        assert "end it" in told.err
    finally:
        holder.communicate()
    desk.check_in_step()


# --- a full disk ---


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty file system of 32 MB."""
    folder = tmp_path_factory.mktemp("disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def cramped(
    server: ForkServer, small_disk: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[Desk]:
    """An installation whose data folder is on a small disk."""
    with desk_in(server, tmp_path_factory.mktemp("cramped"), tiny_model, small_disk / "home") as found:
        found.write(leave_md="# Leave\n\nThirty days.\n", travel_md="# Travel\n\nBy train.\n")
        assert found.lockstep("update").status == 0
        yield found


def fill(disk: Path, *, leaving_kib: int) -> Path:
    room = shutil.disk_usage(disk).free - leaving_kib * 1024
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * max(0, room // 4096 * 4096))
    return ballast


@pytest.mark.root
@pytest.mark.parametrize("leaving_kib", [0, 8, 24, 48, 100])
def test_on_a_full_disk_the_old_snapshot_is_served_and_the_update_goes_on_when_there_is_space(
    cramped: Desk, small_disk: Path, leaving_kib: int
) -> None:
    before = cramped.visible()
    cramped.edit()
    ballast = fill(small_disk, leaving_kib=leaving_kib)
    try:
        message = cramped.failing_update()
        assert "free" in message, message
        assert "space" in message
        assert "run the" in message
        assert cramped.visible() == before
    finally:
        ballast.unlink()
    cramped.update()
    cramped.check_in_step()


@pytest.mark.root
def test_the_command_tells_of_a_full_disk_without_a_traceback(cramped: Desk, small_disk: Path) -> None:
    before = cramped.visible()
    cramped.edit()
    ballast = fill(small_disk, leaving_kib=0)
    try:
        told = cramped.lockstep("update")
        assert told.status == 1
        assert "free" in told.err
        assert "Traceback" not in told.err
        assert cramped.visible() == before
        assert cramped.lockstep("verify").status == 0
    finally:
        ballast.unlink()
    assert cramped.lockstep("update").status == 0
    cramped.check_in_step()
