"""A first build of more documents than one update of a sensor takes, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration._desk import Desk
from tests.integration._forkserver import ForkServer

pytestmark = pytest.mark.integration

DOCUMENTS = 25_000


@pytest.fixture
def desk(server: ForkServer, tmp_path: Path, tiny_model: Path) -> Desk:
    """One file of records, one short text each."""
    found = Desk(server, tmp_path, tiny_model)
    rows = (json.dumps({"id": f"doc-{n}", "text": f"Words of document {n}."}) + "\n" for n in range(DOCUMENTS))
    (tmp_path / "records.jsonl").write_text("".join(rows), encoding="utf-8")
    source = {
        "name": "records",
        "kind": "records",
        "path": "records.jsonl",
        "access": [{"match": "**", "readers": ["group:staff"]}],
    }
    found.configure(json.dumps({"index": "many", "sources": [source], "encoder": {"model": str(tiny_model)}}))
    return found


def test_an_update_by_hand_applies_everything_that_was_found(desk: Desk) -> None:
    told = desk.lockstep("update", "--json")
    assert told.status == 0, told.err
    assert told.json["documents"]["added"] == told.json["documents"]["active"] == DOCUMENTS
    assert told.json["waiting"] == 0
    assert told.json["index"]["rows"] == DOCUMENTS
    status = desk.lockstep("status", "--json").json
    assert status["parts"]["pending"]["sources"]["records"]["found"] == 0
    assert status["parts"]["pending"]["status"] == "healthy"
    desk.lockstep("stop")
