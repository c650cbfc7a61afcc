"""Readers while the index changes under them: no error, and never a row of another snapshot."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines.home import Home
from pipelines.index.address import Address
from pipelines.index.milvus import MilvusIndex
from pipelines.index.protocol import State
from pipelines.index.server import ensure_server, stop_server
from pipelines.index.slots import idle_slot
from pipelines.retrieval.live import search_live
from pipelines.retrieval.search import Mode, Queries, Retriever
from tests.fakes.rows import DIMENSION, index_rows, readable_by, unit_vector

pytestmark = pytest.mark.integration

SWAPS = 50
ROWS = 60
ALIAS = "swaps"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[Address]:
    home = Home(tmp_path)
    yield ensure_server(home, linger=False)
    stop_server(home)


def promote(index: MilvusIndex, number: int, *, full: bool) -> None:
    """Bring the idle slot to snapshot `number`, in which every row names it, and swap it in."""
    slot = idle_slot(ALIAS, index.alias_target(ALIAS), slots=2)
    first = number % 7  # documents come and go too
    rows = index_rows(range(first, first + ROWS), uri=f"snapshot-{number}", row_hash=f"{number}")
    if full or not index.exists(slot):
        index.drop(slot)
        index.create(slot, DIMENSION)
    else:
        index.write_state(slot, {**(index.read_state(slot) or {}), "building": True})
    held = index.row_hashes(slot)
    index.upsert(slot, rows)
    index.delete(slot, sorted(set(held) - set(rows["chunk_id"].to_pylist())))
    index.write_state(slot, {"snapshot_id": f"snapshot-{number}", "building": False, "rows": ROWS})
    index.wait_until_indexed(slot, 60)
    index.point_alias(ALIAS, slot)


class Reader(threading.Thread):
    """Asks until told to stop, with a client of its own."""

    def __init__(self, address: Address, *, slow: bool = False) -> None:
        super().__init__(daemon=True)
        self.slow = slow
        self.asked = 0
        self.promoted = threading.Semaphore(0)
        self.retriever = Retriever(MilvusIndex(address))
        self.stop = threading.Event()
        self.seen: dict[str, int] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.ask()
        except BaseException as error:  # noqa: BLE001  whatever it is, the test reports it
            self.error = error

    def encode(self, state: State, texts: Sequence[str], mode: Mode) -> Queries:
        """A slow reader holds on to the slot it resolved until two more snapshots were promoted, every other time."""
        self.asked += 1
        if self.slow and self.asked % 2:
            while self.promoted.acquire(blocking=False):
                pass
            for _ in range(2):
                self.promoted.acquire(timeout=10)
        return Queries(np.array([unit_vector(3), unit_vector(5)], np.float32), [{10: 1.0, 23: 1.0}, {11: 1.0}])

    def ask(self) -> None:
        answer = search_live(
            self.retriever, ALIAS, ["a", "b"], visible=lambda _: readable_by(*range(5)), k=8, encode=self.encode
        )
        assert answer.snapshot_id is not None
        for hits in answer.hits:
            assert len(hits) == 8
            assert {hit.uri for hit in hits} == {answer.snapshot_id}
        self.seen[answer.snapshot_id] = self.seen.get(answer.snapshot_id, 0) + 1


def test_readers_see_one_snapshot_a_request_and_no_error_during_fifty_swaps(address: Address) -> None:
    index = MilvusIndex(address)
    promote(index, 0, full=True)
    readers = [Reader(address), Reader(address), Reader(address, slow=True)]
    for reader in readers:
        reader.start()
    for number in range(1, SWAPS + 1):
        promote(index, number, full=number % 10 == 0)
        for reader in readers:
            reader.promoted.release()
    for reader in readers:
        reader.stop.set()
        reader.promoted.release(2)
        reader.join(60)
        assert not reader.is_alive()
        assert reader.error is None, reader.error
        assert len(reader.seen) > SWAPS / 10, "the reader must have met many of the snapshots"
        reader.slow = False
        reader.ask()
        assert f"snapshot-{SWAPS}" in reader.seen


def test_a_reader_in_another_process_sees_every_answer_whole(address: Address) -> None:
    index = MilvusIndex(address)
    promote(index, 0, full=True)
    code = (
        "import json, sys\n"
        "from tests.integration.test_index_swaps import Reader\n"
        "from pipelines.index.address import Address\n"
        "reader = Reader(Address(*sys.stdin.read().split()))\n"
        "while 'snapshot-10' not in reader.seen:\n"
        "    reader.ask()\n"
        "print(json.dumps(reader.seen))\n"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.write(f"{address.uri} {address.token}")
    process.stdin.close()
    for number in range(1, 11):
        promote(index, number, full=False)
    assert process.stdout is not None
    output = process.stdout.read()
    process.wait(60)
    assert process.returncode == 0
    assert "snapshot-10" in json.loads(output)


def test_a_rollback_brings_the_earlier_rows_back(address: Address) -> None:
    index = MilvusIndex(address)
    reader = Reader(address)
    promote(index, 1, full=True)
    before = index.alias_target(ALIAS)
    promote(index, 2, full=True)
    assert before is not None
    index.point_alias(ALIAS, before)
    reader.ask()
    assert reader.seen == {"snapshot-1": 1}
