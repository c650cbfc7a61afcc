"""The process around Milvus Lite: started once, found again, and whole after whatever ended it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.errors import IndexUnavailable
from pipelines.home import Home
from pipelines.index.address import Address
from pipelines.index.lite_record import LOG_FILE, ServerRecord, data_folder
from pipelines.index.milvus import MilvusIndex
from pipelines.index.protocol import UNFILTERED
from pipelines.index.server import ensure_server, server_status, stop_server
from tests.fakes.rows import DIMENSION, index_rows, unit_vector

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    stop_server(home)


def start(home: Home) -> MilvusIndex:
    return MilvusIndex(ensure_server(home, linger=False))


def kill(home: Home) -> None:
    pid = server_status(home).pid
    assert pid is not None
    process = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=20)


def collection_folder(home: Home, name: str) -> Path:
    return data_folder(home.index) / "collections" / name


def holding(home: Home, name: str = "a", rows: int = 40) -> MilvusIndex:
    """A running index with one complete, live slot."""
    index = start(home)
    index.create(name, DIMENSION)
    index.upsert(name, index_rows(range(rows)))
    index.write_state(name, {"snapshot_id": "s1", "building": False, "rows": rows})
    index.wait_until_indexed(name, 60)
    index.point_alias("live", name)
    return index


def test_the_second_command_finds_the_process_of_the_first(home: Home) -> None:
    first = ensure_server(home, linger=False)
    assert ensure_server(home, linger=False) == first
    status = server_status(home)
    assert status.running
    assert status.uri == first.uri
    assert first.uri.startswith("http://127.0.0.1:")


def test_commands_at_once_start_one_process(home: Home) -> None:
    uris: list[Address] = []
    threads = [threading.Thread(target=lambda: uris.append(ensure_server(home, linger=False))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(uris) == 4
    assert len(set(uris)) == 1


def test_stopping_ends_the_process_and_may_be_repeated(home: Home) -> None:
    ensure_server(home, linger=False)
    pid = server_status(home).pid
    assert stop_server(home)
    assert not stop_server(home)
    assert not server_status(home).running
    assert pid is not None
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_rows_state_and_alias_survive_a_stop(home: Home) -> None:
    holding(home)
    stop_server(home)
    index = start(home)
    assert index.count("a") == 40
    assert index.alias_target("live") == "a"
    assert (index.read_state("a") or {})["snapshot_id"] == "s1"
    assert index.search_dense("a", np.array([unit_vector(3)], np.float32), visible=UNFILTERED, limit=1)


def test_what_was_acknowledged_is_there_after_a_kill(home: Home) -> None:
    index = holding(home)
    index.write_state("a", {"snapshot_id": "s1", "building": True})
    index.upsert("a", index_rows(range(40, 60)))
    index.upsert("a", index_rows([1], title="new"))
    index.delete("a", ["chunk-00000"])
    before = index.row_hashes("a")
    kill(home)
    with pytest.raises(IndexUnavailable, match="run the command again"):
        index.count("a")
    again = start(home)
    assert again.row_hashes("a") == before
    assert again.count("a") == 59
    assert (again.read_state("a") or {})["building"] is True
    assert again.alias_target("live") == "a"
    assert again.fetch("a", ["chunk-00001"])["chunk-00001"]["title"] == "new"


def test_a_kill_between_the_two_steps_of_a_flush_doubles_no_row(home: Home) -> None:
    index = holding(home)
    index.write_state("a", {"snapshot_id": "s1", "building": True})
    index.upsert("a", index_rows(range(40, 60)))
    logs = collection_folder(home, "a") / "wal"
    kept = {log.name: log.read_bytes() for log in logs.iterdir()}
    index.wait_until_indexed("a", 60)
    index.write_state("a", {"snapshot_id": "s2", "building": False, "rows": 60})
    kill(home)
    for name, content in kept.items():  # as if the kill had come before they were removed
        (logs / name).write_bytes(content)
    again = start(home)
    assert again.count("a") == 60
    assert (
        len(again.search_dense("a", np.array([unit_vector(1)], np.float32), visible=UNFILTERED, limit=100)[0].scores)
        == 60
    )


def test_a_process_that_was_to_end_with_its_starter_does_so_even_when_that_is_killed(home: Home) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom pipelines.home import Home\n"
        "from pipelines.index.server import ensure_server, server_status\n"
        "home = Home(Path(sys.argv[1]))\nensure_server(home, linger=False)\n"
        "print(server_status(home).pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home.root)], capture_output=True, text=True, cwd=ROOT)
    process = psutil.Process(int(done.stdout)) if psutil.pid_exists(int(done.stdout)) else None
    _, alive = psutil.wait_procs([process] if process else [], timeout=30)
    assert not alive


def test_a_lingering_process_serves_the_next_command(home: Home) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipelines.home import Home\n"
        "from pipelines.index.server import ensure_server\n"
        "print(ensure_server(Home(Path(sys.argv[1])), linger=True).uri)\n"
    )
    run = [sys.executable, "-c", code, str(home.root)]
    first = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    assert server_status(home).uri == first
    assert ensure_server(home).uri == first


def test_a_process_of_older_code_is_replaced(home: Home) -> None:
    ensure_server(home, linger=False)
    record = ServerRecord.read(home.index)
    assert record is not None
    content = json.loads((home.index / "server.json").read_text())
    # The running process ends when the folder names another version, as it would after an upgrade.
    (home.index / "server.json").write_text(json.dumps({**content, "version": "0/old"}))
    ensure_server(home, linger=False)
    assert server_status(home).pid != record.pid


def test_a_record_of_another_process_is_not_believed(home: Home) -> None:
    home.index.mkdir(parents=True)
    ServerRecord(pid=os.getpid(), started=1.0, uri="http://127.0.0.1:1", version="x").write(home.index)
    assert not server_status(home).running
    assert not stop_server(home)
    assert start(home).collections() == []


def test_a_folder_that_another_process_has_open_is_named_with_that_process(home: Home) -> None:
    data = data_folder(home.index)
    data.mkdir(parents=True)
    with (data / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(IndexUnavailable, match=rf"pid {os.getpid()}.*then run the command again"):
            start(home)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexUnavailable, match="index"):
        ensure_server(Home(tmp_path / "file"), linger=False)


def test_the_log_of_the_process_is_in_the_index_folder(home: Home) -> None:
    ensure_server(home, linger=False)
    assert "serving" in (home.index / LOG_FILE).read_text()


# --- a half-deleted data folder ---


def remove_data_file(folder: Path) -> None:
    next((folder / "partitions").rglob("*.parquet")).unlink()


def remove_schema(folder: Path) -> None:
    (folder / "schema.json").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def garble_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def garble_data_file(folder: Path) -> None:
    next((folder / "partitions").rglob("*.parquet")).write_bytes(b"no longer rows")


def remove_rows_and_manifests(folder: Path) -> None:
    for file in [*(folder / "partitions").rglob("*.parquet"), *folder.glob("manifest.json*")]:
        file.unlink()


@pytest.mark.parametrize(
    "damage",
    [remove_data_file, remove_schema, remove_manifest, garble_manifest, garble_data_file, remove_rows_and_manifests],
)
def test_a_damaged_collection_is_set_aside_and_can_be_built_again(home: Home, damage: object) -> None:
    index = holding(home)
    index.create("b", DIMENSION)
    index.upsert("b", index_rows(range(5)))
    stop_server(home)
    assert callable(damage)
    damage(collection_folder(home, "a"))
    again = start(home)
    assert [name for name, _ in server_status(home).set_aside] == ["a"]
    assert not again.exists("a")
    assert again.read_state("a") is None
    assert again.count("b") == 5, "what is whole stays"
    again.create("a", DIMENSION)
    again.upsert("a", index_rows(range(3)))
    assert again.count("a") == 3


def test_unreadable_aliases_are_forgotten_so_that_they_can_be_pointed_again(home: Home) -> None:
    holding(home)
    stop_server(home)
    (data_folder(home.index) / "aliases.json").write_text("{")
    index = start(home)
    assert index.alias_target("live") is None
    index.point_alias("live", "a")
    assert index.alias_target("live") == "a"


def test_the_process_ends_when_its_folder_is_removed(home: Home) -> None:
    ensure_server(home, linger=False)
    process = psutil.Process(server_status(home).pid)
    for file in home.index.glob("server.json"):
        file.unlink()
    _, alive = psutil.wait_procs([process], timeout=30)
    assert not alive


# --- whose it is ---


@pytest.mark.parametrize("token", [None, "", "lockstep:", "lockstep:guessed", "root:Milvus"])
def test_who_does_not_bring_the_secret_gets_an_error_and_nothing_else(home: Home, token: str | None) -> None:
    holding(home).close()
    stranger = MilvusIndex(Address(ensure_server(home, linger=False).uri, token))
    for ask in (
        stranger.collections,
        lambda: stranger.alias_target("live"),
        lambda: stranger.count("a"),
        lambda: stranger.rows("a"),
        lambda: stranger.search_dense("a", np.array([unit_vector(1)], np.float32), visible=UNFILTERED, limit=1),
        lambda: stranger.delete("a", ["chunk-00001"]),
        lambda: stranger.write_state("a", {"snapshot_id": "forged"}),
        lambda: stranger.drop("a"),
    ):
        with pytest.raises(IndexUnavailable, match=r"does not accept the token.*lockstep stop"):
            ask()
    owner = start(home)
    assert owner.count("a") == 40
    assert (owner.read_state("a") or {})["snapshot_id"] == "s1"


def test_every_method_of_the_protocol_is_behind_the_secret(home: Home) -> None:
    import grpc
    from pymilvus.grpc_gen import milvus_pb2, milvus_pb2_grpc

    uri = ensure_server(home, linger=False).uri.removeprefix("http://")
    with grpc.insecure_channel(uri) as channel:
        stub = milvus_pb2_grpc.MilvusServiceStub(channel)
        served = list(milvus_pb2.DESCRIPTOR.services_by_name["MilvusService"].methods)
        for method in served:
            request = milvus_pb2.ConnectRequest()
            with pytest.raises(grpc.RpcError) as refused:
                answer = getattr(stub, method.name)(iter([request]) if method.client_streaming else request, timeout=10)
                if method.server_streaming:
                    list(answer)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED, method.name
    assert len(served) > 50


def test_the_secret_is_in_one_file_of_its_owner_and_nowhere_else(home: Home) -> None:
    token = ensure_server(home, linger=False).token
    assert token is not None
    secret = token.partition(":")[2]
    file = home.index / "secret"
    assert file.stat().st_mode & 0o777 == 0o600
    others = [path for path in home.root.rglob("*") if path.is_file() and path != file]
    assert others
    assert not [path for path in others if secret in path.read_bytes().decode("utf-8", "replace")]
    pid = server_status(home).pid
    assert secret not in " ".join(psutil.Process(pid).cmdline())
    assert secret not in str(psutil.Process(pid).environ())
    assert secret not in repr(ensure_server(home, linger=False))


def test_the_secret_outlives_the_process_and_another_one_restarts_it(home: Home) -> None:
    first = ensure_server(home, linger=False)
    stop_server(home)
    second = ensure_server(home, linger=False)
    assert second.token == first.token
    (home.index / "secret").unlink()
    third = ensure_server(home, linger=False)
    assert third.token != second.token
    assert MilvusIndex(third).collections() == []
    (home.index / "secret").write_text("short")
    with pytest.raises(IndexUnavailable, match="delete that file"):
        ensure_server(home, linger=False)


def test_a_secret_that_others_can_read_is_narrowed(home: Home) -> None:
    ensure_server(home, linger=False)
    (home.index / "secret").chmod(0o644)
    ensure_server(home, linger=False)
    assert (home.index / "secret").stat().st_mode & 0o777 == 0o600
