from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pyarrow as pa
import pytest

from pipelines.config import ParsingConfig
from pipelines.errors import LakeError
from pipelines.identity import content_hash
from pipelines.lake.schemas import ELEMENTS
from pipelines.parsing.media_types import RECORD
from pipelines.parsing.pool import Pool, Request
from pipelines.parsing.routes import parser_fp
from pipelines.parsing.stage import _well_formed, parse_stage

SLOW = ("> " * 30 + "[a](b *c* `d`\n" + "1. x\n" * 60) * 4_000  # seconds of Markdown
HUNGRY = b"[" + b"[],[[]]," * 2_000_000 + b"[]]"  # 18 MB of JSON that becomes several hundred


def rows(documents: list[tuple[str, bytes]], config: ParsingConfig | None = None) -> dict[bytes, dict]:
    contents = {content_hash(content): content for _, content in documents}

    def batches() -> Iterator[pa.RecordBatch]:
        for media_type, content in documents:
            yield pa.RecordBatch.from_pydict({"content_hash": [content_hash(content)], "media_type": [media_type]})

    config = config or ParsingConfig(workers=2)
    out = {}
    for batch in parse_stage(config, contents.__getitem__)(batches()):
        assert batch.schema == ELEMENTS
        for row in batch.to_pylist():
            out[contents[row["content_hash"]]] = row
    assert len(out) == len(contents)
    return out


def test_every_input_row_becomes_one_row_of_the_elements_table():
    found = rows(
        [
            ("text/plain", b"Hello there."),
            ("text/plain", b" \n "),
            ("application/zip", b"PK"),
            ("application/json", b"{"),
        ]
    )
    assert [found[key]["status"] for key in (b"Hello there.", b" \n ", b"PK", b"{")] == [
        "parsed",
        "empty",
        "failed",
        "failed",
    ]
    assert found[b"Hello there."]["elements"][0] | {} == {
        "kind": "paragraph", "text": "Hello there.", "level": None, "page": None, "html": None, "language": None
    }  # fmt: skip
    assert found[b"Hello there."]["parser_fp"] == parser_fp("text/plain", ParsingConfig(workers=2))
    assert found[b"Hello there."]["characters"] == len("Hello there.")
    assert found[b" \n "]["error_class"] == "NoText"
    assert found[b"PK"]["error_class"] == "Unsupported"
    assert "unpack it into the source" in found[b"PK"]["error"]
    assert found[b"{"]["error_class"] == "Damaged"
    assert not any(row["transient"] for row in found.values())


def test_a_parse_beyond_its_time_is_ended_and_its_neighbours_are_not_touched():
    slow = SLOW.encode()
    texts = [(f"Paragraph {n}.").encode() for n in range(20)]
    documents = [("text/plain", text) for text in texts]
    found = rows(
        [*documents[:10], ("text/markdown", slow), *documents[10:]], ParsingConfig(workers=2, timeout_seconds=0.2)
    )
    assert found[slow]["error_class"] == "TimeLimit"
    assert found[slow]["transient"]
    assert "parsing.timeout_seconds" in found[slow]["error"]
    assert found[slow]["seconds"] < 5
    assert all(found[text]["status"] == "parsed" for text in texts)


def test_a_parse_beyond_its_memory_is_ended_and_its_neighbours_are_not_touched():
    texts = [(f"Paragraph {n}.").encode() for n in range(6)]
    documents = [("text/plain", text) for text in texts]
    config = ParsingConfig(workers=2, memory_bytes=256 << 20)
    found = rows([*documents[:3], ("application/json", HUNGRY), *documents[3:]], config)
    assert found[HUNGRY]["error_class"] == "MemoryLimit"
    assert found[HUNGRY]["transient"]
    assert "parsing.memory_bytes" in found[HUNGRY]["error"]
    assert all(found[text]["status"] == "parsed" for text in texts)


def test_a_worker_that_is_killed_costs_its_own_document_only():
    killed: list[int] = []

    def requests() -> Iterator[Request]:
        yield Request("victim", "text/markdown", SLOW.encode())
        number = 0
        while not killed:
            yield Request((number := number + 1), "text/plain", b"Still here.")
        yield Request("after", "text/plain", b"Still here.")

    answers = {}
    with Pool(ParsingConfig(workers=2)) as pool:
        for request, answer in pool.run(requests()):
            answers[request.key] = answer
            for worker in pool._workers:
                if worker.started and worker.request and worker.request.key == "victim":
                    killed.append(worker.process.pid)
                    worker.process.kill()
    assert answers.pop("victim")["error_class"] == "Crashed"
    assert "after" in answers
    assert {answer["status"] for answer in answers.values()} == {"parsed"}


def test_a_worker_that_is_killed_before_it_begins_costs_nothing():
    others = set(psutil.Process().children())  # of other tests in this process

    def requests() -> Iterator[Request]:
        yield Request("first", "text/plain", b"Still here.")
        for child in set(psutil.Process().children()) - others:
            child.kill()
        yield Request("second", "text/plain", b"Still here.")

    with Pool(ParsingConfig(workers=2)) as pool:
        assert {request.key: answer["status"] for request, answer in pool.run(requests())} == {
            "first": "parsed",
            "second": "parsed",
        }


def test_one_worker_parses_many_documents_and_none_is_left_behind():
    before = {child.pid for child in psutil.Process().children()}
    seen: set[int] = set()
    with Pool(ParsingConfig(workers=1)) as pool:
        for _ in pool.run(Request(n, "text/plain", b"Text.") for n in range(30)):
            seen |= {child.pid for child in psutil.Process().children()} - before
    assert len(seen) == 1
    assert {child.pid for child in psutil.Process().children()} <= before


def test_no_worker_starts_when_there_is_nothing_to_parse():
    before = {child.pid for child in psutil.Process().children()}
    with Pool(ParsingConfig(workers=2)) as pool:
        assert list(pool.run(iter(()))) == []
        assert {child.pid for child in psutil.Process().children()} <= before


def test_workers_end_when_the_consumer_stops_early():
    before = {child.pid for child in psutil.Process().children()}

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(2_000):
            yield pa.RecordBatch.from_pydict({"content_hash": [str(number)], "media_type": ["text/plain"]})

    results = parse_stage(ParsingConfig(workers=2), lambda key: f"Text {key}".encode())(batches())
    next(results)
    results.close()
    assert {child.pid for child in psutil.Process().children()} <= before


def test_the_same_bytes_give_the_same_row_in_any_worker():
    documents = [
        ("text/markdown", b"# A\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- x\n- y\n"),
        ("text/html", b"<h1>T</h1><p>x<p>y<ul><li>z</ul>"),
        ("message/rfc822", b"From: a@b.c\nSubject: S\nKeywords: z, y, x\n\nBody.\n"),
    ]
    first, second = rows(documents), rows(documents[::-1], ParsingConfig(workers=1))
    for _, content in documents:
        assert {**first[content], "seconds": 0} == {**second[content], "seconds": 0}


def test_the_worker_has_no_secrets_in_its_environment(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Pool(ParsingConfig(workers=1)) as pool:
        run = pool.run([Request(1, "text/plain", b"Text.")])
        next(run)
        children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        workers = [child for child in children if "pipelines.parsing.worker" in child.cmdline()]
        environment = [worker.environ() for worker in workers]
    assert environment
    assert all("AWS_SECRET_ACCESS_KEY" not in variables for variables in environment)
    assert all(variables["DO_NOT_TRACK"] == "1" for variables in environment)


def test_an_error_of_the_reader_passes_through():
    def read(_: str) -> bytes:
        raise LakeError("the blob is missing")

    batch = pa.RecordBatch.from_pydict({"content_hash": ["a"], "media_type": ["text/plain"]})
    with pytest.raises(LakeError, match="blob"):
        list(parse_stage(ParsingConfig(workers=1), read)(iter([batch])))


def test_the_stage_can_be_sent_to_another_process():
    stage = parse_stage(ParsingConfig(workers=1), bytes.fromhex)
    batch = pa.RecordBatch.from_pydict({"content_hash": [b"Sent.".hex()], "media_type": ["text/plain"]})
    again = pickle.loads(pickle.dumps(stage))
    assert next(again(iter([batch]))).to_pylist()[0]["elements"][0]["text"] == "Sent."


def test_a_record_keeps_its_title_and_metadata():
    record = {
        "title": "A study",
        "text": "First.\n\nSecond.",
        "metadata": {"author": "Ann", "tags": ["x"], "year": 2020},
    }
    row = rows([(RECORD, json.dumps(record).encode())])[json.dumps(record).encode()]
    assert row["title"] == "A study"
    assert json.loads(row["metadata"]) == record["metadata"]
    assert [element["kind"] for element in row["elements"]] == ["title", "paragraph", "paragraph"]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "fine"},
        {"elements": []},
        {"elements": [{"kind": "paragraph", "text": 1}]},
        {"elements": "text"},
        {"title": 7},
        {"metadata": "[]"},
        {"metadata": "{"},
        {"pages": "3"},
        {"title": "\ud800"},
    ],
)
def test_an_answer_that_a_worker_should_never_give_is_not_believed(change):
    element = {"kind": "paragraph", "text": "x", "level": None, "page": None, "html": None, "language": None}
    good = {"status": "parsed", "title": "", "metadata": "{}", "pages": None, "elements": [element]}
    assert _well_formed(good)
    assert not _well_formed(good | change)


def test_the_fingerprint_covers_what_changes_the_output_and_nothing_else():
    base = ParsingConfig(workers=1)
    assert parser_fp("text/plain", base) == parser_fp("text/plain", ParsingConfig(workers=2, timeout_seconds=1))
    assert parser_fp("text/plain", base) != parser_fp("text/plain", ParsingConfig(workers=1, max_characters=10))
    assert parser_fp("text/plain", base) != parser_fp("application/pdf", base)
    assert parser_fp("image/png", base) != parser_fp("application/zip", base)


def test_a_worker_imports_nothing_of_configuration_or_tables() -> None:
    """It starts for a single changed document; these would take ten times as long as all the rest."""
    heavy = ("pydantic", "pyarrow", "numpy", "fsspec", "pipelines.config")
    code = f"import sys, pipelines.parsing.worker; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
