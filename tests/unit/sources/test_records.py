import datetime
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import ConfigError, SourceError
from pipelines.home import Home
from pipelines.identity import content_hash
from pipelines.sources.base import RECORD_MEDIA_TYPE, Fetched, Listing
from pipelines.sources.records.source import RecordFields, RecordFile, RecordsSource
from pipelines.sources.registry import open_source
from pipelines.sources.surroundings import Surroundings

ALL = RecordFields(title="title", author="author", created="created", language="language", tags="tags")
ROWS = [
    {"id": "a", "title": "First", "text": 'one, "two"\nthree'},
    {"id": "b/c d", "title": "Zweite Größe", "text": "日本語"},
    {"id": "100%", "title": None, "text": " spaces stay "},
]


def source(path: Path, **options) -> RecordFile:
    return RecordFile(RecordsSource(name="papers", kind="records", path=path, **options))


def json_lines(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def uris(listing: Listing) -> list[str]:
    return listing.items["uri"].to_pylist()


def contents(found: RecordFile) -> dict[str, dict]:
    return {answer.uri: json.loads(answer.content) for answer in found.fetch(uris(found.list()))}


@pytest.fixture(params=["jsonl", "ndjson", "csv", "tsv", "parquet"])
def file_of_rows(request, tmp_path: Path) -> Path:
    import csv

    path = tmp_path / f"corpus.{request.param}"
    if request.param in ("jsonl", "ndjson"):
        return json_lines(path, *ROWS)
    if request.param == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter="\t" if request.param == "tsv" else ",")
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def test_every_format_gives_the_same_documents_and_etags(file_of_rows, tmp_path):
    found = source(file_of_rows, fields=RecordFields(title="title"))
    listing = found.list()
    assert uris(listing) == ["a", "b/c d", "100%25"]
    assert listing.complete
    assert contents(found) == {
        "a": {"title": "First", "text": 'one, "two"\nthree', "metadata": {}},
        "b/c d": {"title": "Zweite Größe", "text": "日本語", "metadata": {}},
        "100%25": {"title": None, "text": " spaces stay ", "metadata": {}},
    }
    reference = source(json_lines(tmp_path / "reference.jsonl", *ROWS), fields=RecordFields(title="title")).list()
    assert listing.items["etag"].to_pylist() == reference.items["etag"].to_pylist()


def test_the_etag_is_the_hash_of_the_content_that_is_fetched(tmp_path):
    found = source(json_lines(tmp_path / "a.jsonl", *ROWS))
    listing = found.list()
    etags = dict(zip(uris(listing), listing.items["etag"].to_pylist(), strict=True))
    sizes = dict(zip(uris(listing), listing.items["size_bytes"].to_pylist(), strict=True))
    for answer in found.fetch(uris(listing)):
        assert isinstance(answer, Fetched)
        assert answer.media_type == RECORD_MEDIA_TYPE
        assert answer.etag == content_hash(answer.content) == etags[answer.uri]
        assert len(answer.content) == answer.size_bytes == sizes[answer.uri]


def test_only_fields_that_matter_change_the_etag(tmp_path):
    one = source(json_lines(tmp_path / "one.jsonl", {"id": 1, "text": "t", "score": 3})).list()
    other = source(json_lines(tmp_path / "two.jsonl", b'{ "text":"\\u0074", "score": 4, "id": "1"}')).list()
    assert one.items.equals(other.items)


def test_metadata_is_taken_from_the_fields_that_are_named(tmp_path):
    row = {
        "id": 7,
        "title": " T ",
        "text": "t",
        "author": "Ada",
        "created": "2024-05-01",
        "language": "",
        "tags": "x; y,",
    }
    found = source(json_lines(tmp_path / "a.jsonl", row), fields=ALL)
    metadata = {"author": "Ada", "created": "2024-05-01", "tags": ["x", "y"]}
    assert contents(found) == {"7": {"title": "T", "text": "t", "metadata": metadata}}


def test_parquet_times_lists_and_numbers_become_text(tmp_path):
    created = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    rows = [
        {"id": 7, "title": 5, "text": "t", "author": None, "created": created, "language": "de", "tags": ["x", "y"]}
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    metadata = {"created": "2024-05-01T12:00:00+00:00", "language": "de", "tags": ["x", "y"]}
    assert contents(source(tmp_path / "a.parquet", fields=ALL)) == {
        "7": {"title": "5", "text": "t", "metadata": metadata}
    }


@pytest.mark.parametrize(
    ("line", "error_class", "words"),
    [
        (b"{broken", "BadRecord", "no valid JSON"),
        (b'{"id": "x", "text": "t"', "BadRecord", "no valid JSON"),
        (b'["id"]', "BadRecord", "a JSON object is needed"),
        (b'{"id": "x", "text": "\xff"}', "BadRecord", "not UTF-8"),
        (b"[" * 100_000, "BadRecord", "no valid JSON"),
        (b'{"id": 1' + b"0" * 5_000 + b', "text": "t"}', "BadRecord", "digits"),
        (b'{"text": "t"}', "MissingId", "no id in 'id'"),
        (b'{"id": null, "text": "t"}', "MissingId", "no id"),
        (b'{"id": "  ", "text": "t"}', "MissingId", "no id"),
        (b'{"id": 1.5, "text": "t"}', "BadRecord", "float"),
        (b'{"id": true, "text": "t"}', "BadRecord", "bool"),
        (b'{"id": "\\ud800", "text": "t"}', "BadRecord", "no valid text"),
        (b'{"id": "' + b"x" * 1_025 + b'", "text": "t"}', "BadRecord", "1,024"),
        (b'{"id": "x", "text": "' + b"y" * 200_000 + b'"}', "BadRecord", "max_bytes"),
    ],
)
def test_a_line_without_readable_id_is_named_by_number_and_nothing_may_be_deleted(tmp_path, line, error_class, words):
    path = json_lines(tmp_path / "a.jsonl", {"id": "a", "text": "t"}, b"", line, {"id": "z", "text": "t"})
    listing = source(path, max_bytes=50_000).list()
    assert uris(listing) == ["a", "z"]
    assert not listing.complete
    (problem,) = listing.problems
    assert problem.error_class == error_class
    assert f"{path}: line 3: " in problem.message
    assert words in problem.message


@pytest.mark.parametrize(
    ("row", "error_class"),
    [
        ({"id": "b"}, "MissingText"),
        ({"id": "b", "text": None}, "MissingText"),
        ({"id": "b", "text": " \n"}, "MissingText"),
        ({"id": "b", "text": ["t"]}, "BadRecord"),
        ({"id": "b", "text": "x" * 500}, "TooLarge"),
    ],
)
def test_a_bad_record_with_an_id_protects_only_itself(tmp_path, row, error_class):
    path = json_lines(tmp_path / "a.jsonl", {"id": "a", "text": "t"}, row)
    listing = source(path, max_bytes=520).list()
    assert uris(listing) == ["a"]
    assert listing.complete
    (problem,) = listing.problems
    assert (problem.uri, problem.error_class) == ("b", error_class)
    assert "line 2" in problem.message


def test_of_two_records_with_one_id_the_first_is_used_and_both_are_named(tmp_path):
    rows = [{"id": "a", "text": "1"}, {"id": "b", "text": "2"}, {"id": "a", "text": "3"}, {"id": "a", "text": "4"}]
    found = source(json_lines(tmp_path / "a.jsonl", *rows))
    listing = found.list()
    assert uris(listing) == ["a", "b"]
    assert [problem.error_class for problem in listing.problems] == ["DuplicateId", "DuplicateId"]
    assert "line 3 and line 1" in listing.problems[0].message
    assert "line 4 and line 1" in listing.problems[1].message
    assert contents(found)["a"]["text"] == "1"


def test_halves_of_surrogate_pairs_in_a_text_do_not_lose_the_record(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", b'{"id": "a", "text": "x\\ud800y\\ud83d\\ude00"}')
    assert contents(source(path))["a"]["text"] == "x\ufffdy\U0001f600"


def test_a_byte_order_mark_and_windows_line_ends_are_no_problem(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a", "text": "t"}\r\n\r\n{"id": "b", "text": "t"}')
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfid,text\r\na,t\r\n\r\nb,t")
    for name in ("a.jsonl", "a.csv"):
        listing = source(tmp_path / name).list()
        assert uris(listing) == ["a", "b"]
        assert listing.problems == ()


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        (b'a,"multi\nline"\nb,t,extra\nz,t\n', "line 4", "3 fields"),
        (b"b\nz,t\n", "line 2", "1 fields"),
        (b'a,t\nb,"x"y\nz,t\n', "line 3", "no valid CSV"),
        (b"b,\xff\nz,t\n", "line 2", "not UTF-8"),
        (b'z,t\nb,"never closed\n' + b"c,t\n" * 3, "line 3", "no valid CSV"),
    ],
)
def test_a_bad_csv_line_is_named_and_the_others_are_read(tmp_path, body, place, words):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n" + body)
    listing = source(path).list()
    assert "z" in uris(listing)
    assert not listing.complete
    (problem,) = listing.problems
    assert f"{place}: " in problem.message
    assert words in problem.message


def test_a_csv_field_of_megabytes_is_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\na," + b"x" * 3_000_000 + b"\n")
    assert len(source(tmp_path / "a.csv").list().items) == 1


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_column_that_is_not_there_is_an_error_that_names_key_and_columns(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"key": ["a"], "text": ["t"]}), path)
    else:
        path.write_text("key,text\na,t\n".replace(",", "\t" if suffix == "tsv" else ","))
    with pytest.raises(SourceError, match=r"`fields` names the column 'id'.*'key', 'text'"):
        source(path).list()


def test_a_file_without_one_usable_record_is_an_error_and_not_an_empty_source(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", {"key": 1, "body": "t"}, {"key": 2, "body": "t"})
    with pytest.raises(SourceError, match=r"line 1.*`fields`"):
        source(path).list()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "header"),
        ("a.csv", b"id,text\n".replace(b"id", b'"id"x'), "header"),
        ("a.csv", b"id,id,text\n1,2,t\n", "more than once"),
        ("a.parquet", b"", "Parquet"),
        ("a.parquet", b"PAR1 no such thing PAR1", "Parquet"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_an_error(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=words):
        source(tmp_path / name).list()


def test_a_truncated_parquet_file_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [str(n) for n in range(5_000)], "text": ["text"] * 5_000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="Parquet"):
        source(path).list()


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.csv", "gone.parquet"])
def test_a_missing_file_is_an_error_that_names_path_and_key(tmp_path, name):
    with pytest.raises(SourceError, match="does not exist") as caught:
        source(tmp_path / name).list()
    assert str(tmp_path / name) in str(caught.value)
    assert "`path`" in str(caught.value)
    with pytest.raises(SourceError, match="does not exist"):
        list(source(tmp_path / name).fetch(["a"]))


def test_a_folder_or_pipe_in_place_of_the_file_is_an_error_and_never_waited_for(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    os.mkfifo(tmp_path / "b.jsonl")
    for name in ("a.jsonl", "b.jsonl"):
        with pytest.raises(SourceError, match="no ordinary file"):
            source(tmp_path / name).list()


def test_a_suffix_that_is_not_known_is_a_configuration_error_that_lists_those_that_are(tmp_path):
    with pytest.raises(ConfigError, match=r"\.jsonl, \.ndjson, \.csv"):
        open_source(RecordsSource(name="p", kind="records", path=tmp_path / "a.xlsx"), Surroundings.of(Home(tmp_path)))


def test_an_empty_file_of_json_lines_is_read_and_empty(tmp_path):
    listing = source(json_lines(tmp_path / "a.jsonl")).list()
    assert len(listing.items) == 0
    assert listing.complete


def test_a_file_that_keeps_changing_while_it_is_listed_is_an_error(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", *({"id": n, "text": "t"} for n in range(1_000)))

    def grow(done: int, total: int) -> None:
        with path.open("ab") as file:
            file.write(b'{"id": "new%d", "text": "t"}\n' % file.tell())

    with pytest.raises(SourceError, match="changed while it was listed"):
        source(path).list(progress=grow)


def test_a_file_that_changed_once_while_it_was_listed_is_listed_again(tmp_path):
    path = json_lines(tmp_path / "a.jsonl", *({"id": n, "text": "t"} for n in range(1_000)))
    left = [1]

    def grow(done: int, total: int) -> None:
        if left.pop() if left else 0:
            with path.open("ab") as file:
                file.write(b'{"id": "new", "text": "t"}\n')

    assert "new" in uris(source(path).list(progress=grow))


def test_a_record_that_is_gone_since_the_listing_may_be_asked_for_again(tmp_path):
    found = source(json_lines(tmp_path / "a.jsonl", *ROWS))
    one, gone = found.fetch(["missing", "a"])
    assert one.uri == "a"
    assert (gone.uri, gone.error_class, gone.transient) == ("missing", "Gone", True)


def test_memory_does_not_grow_with_the_text_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for number in range(5_000):
            file.write(f'{{"id": "doc-{number}", "text": "{"word " * 1_000}{number}"}}\n')
    found = source(path)
    tracemalloc.start(1)
    try:
        listing = found.list()
        fetched = sum(isinstance(answer, Fetched) for answer in found.fetch(uris(listing)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fetched == len(listing.items) == 5_000
    assert peak < path.stat().st_size / 5
