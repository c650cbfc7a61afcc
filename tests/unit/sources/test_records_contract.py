import json
from pathlib import Path

import pytest

from pipelines.sources.addresses.uris import decode_uri
from pipelines.sources.base import Hint
from pipelines.sources.records.source import RecordFile, RecordsSource
from tests.source_contract import Harness, SourceContract, uris


class RecordsHarness(Harness):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "papers.jsonl"
        self.section = RecordsSource(name="papers", kind="records", path=self.path, max_bytes=1_000)
        self._records: dict[str, str] = {}
        self._write()

    def _write(self):
        lines = [json.dumps({"id": decode_uri(uri).decode(), "text": text}) for uri, text in self._records.items()]
        self.path.write_text("".join(line + "\n" for line in lines))

    def open(self):
        return RecordFile(self.section)

    def put(self, uri, content):
        self._records[uri] = content.decode()
        self._write()

    def delete(self, uri):
        del self._records[uri]
        self._write()

    def break_(self):
        self.path.rename(self.path.with_suffix(".gone"))

    def mend(self):
        self.path.with_suffix(".gone").rename(self.path)

    def fetched_as(self, content):
        record = {"metadata": {}, "text": content.decode(), "title": None}
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


class TestRecordFile(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return RecordsHarness(tmp_path)


@pytest.fixture
def harness(tmp_path):
    return RecordsHarness(tmp_path)


def test_a_row_that_could_be_any_document_protects_what_is_hinted(harness):
    harness.put("a", b"one")
    with harness.path.open("a") as file:
        file.write("no record\n")
    looked = harness.open().look([Hint("gone")])
    assert uris(looked) == set()
    assert [problem.subtree for problem in looked.problems] == [True]


def test_a_problem_of_a_row_that_no_hint_names_is_not_told(harness):
    harness.put("a", b"one")
    harness.put_too_large("big")
    assert harness.open().look([Hint("a")]).problems == ()
    assert [problem.uri for problem in harness.open().look([Hint("big")]).problems] == ["big"]


def test_checking_a_file_with_a_bad_row_names_its_line(harness):
    harness.put("a", b"one")
    with harness.path.open("a") as file:
        file.write("no record\n")
    failed = [check for check in harness.open().check() if not check.ok]
    assert [check.name for check in failed] == ["rows"]
    assert "line 2" in failed[0].message
