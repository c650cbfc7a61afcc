import json
import sqlite3
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from pipelines.config import load_config
from pipelines.errors import AccessError, ConfigError, SourceError
from pipelines.sources.base import Fetched, FetchFailure, Hint
from pipelines.sources.database.rows import BadRow, has_fraction, is_deleted, key_of, readers_of, stamp, uri_of
from pipelines.sources.database.section import DatabaseColumns, DatabaseSource
from pipelines.sources.database.source import Database

LONG_AGO = "2026-01-02 03:04:05.5"


class File:
    """An SQLite file with one table, and the source over it."""

    def __init__(self, folder: Path, columns: str = "id TEXT, body TEXT, at TEXT, gone TEXT, who TEXT") -> None:
        self.path = folder / "cms.db"
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute(f"CREATE TABLE rows_ ({columns})")

    def add(self, *values: object) -> None:
        self.connection.execute(f"INSERT INTO rows_ VALUES ({', '.join('?' * len(values))})", values)

    def source(self, *, section: dict | None = None, **columns) -> Database:
        named = DatabaseColumns(**{"key": "id", "text": "body", "updated_at": "at", **columns})
        options = {"url": f"sqlite:///{self.path}", "table": "rows_", **(section or {})}
        return Database(DatabaseSource(name="cms", kind="database", columns=named, **options))


@pytest.fixture
def file(tmp_path):
    return File(tmp_path)


def answers(source: Database, *uris: str) -> dict:
    return {answer.uri: answer for answer in source.fetch(uris)}


def problems(source: Database) -> list[tuple[str, str, bool]]:
    return [(problem.uri, problem.error_class, problem.subtree) for problem in source.list().problems]


def test_a_text_that_is_not_utf8_fails_alone(file):
    file.add("a", "good", LONG_AGO, None, None)
    file.connection.execute("INSERT INTO rows_ VALUES ('b', CAST(X'C328' AS TEXT), ?, NULL, NULL)", (LONG_AGO,))
    file.add("c", b"\xff\xfe bytes stay as they are", LONG_AGO, None, None)
    file.add("d", 42, LONG_AGO, None, None)
    found = answers(file.source(), "a", "b", "c", "d")
    assert found["a"].content == b"good"
    assert (found["b"].error_class, found["b"].transient) == ("BadRow", False)
    assert found["c"].content == b"\xff\xfe bytes stay as they are"
    assert found["d"].content == b"42"  # the column's affinity made it text


def test_a_row_without_a_usable_key_protects_everything_and_one_without_a_time_itself(file):
    file.add("a", "good", LONG_AGO, None, None)
    file.add(None, "text", LONG_AGO, None, None)
    file.add("b", "text", None, None, None)
    file.add("c", "text", "yesterday", None, None)
    file.add("x" * 2_000, "text", LONG_AGO, None, None)
    listing = file.source().list()
    assert listing.items["uri"].to_pylist() == ["a"]
    assert not listing.complete
    assert problems(file.source()) == [
        ("", "MissingKey", True),
        ("b", "MissingTime", False),
        ("c", "BadTime", False),
        ("", "BadKey", True),
    ]


def test_rows_that_share_a_key_are_a_problem_and_none_of_them_is_chosen(tmp_path):
    file = File(tmp_path, "id, body TEXT, at TEXT")
    file.add("1", "text", LONG_AGO)
    file.add(1, "another one, by the same name", LONG_AGO)
    file.add("2", "text", LONG_AGO)
    listing = file.source().list()
    assert listing.items["uri"].to_pylist() == ["2"]
    assert problems(file.source()) == [("1", "DuplicateKey", False)]
    looked = file.source().look([Hint("1"), Hint("2")])
    assert looked.items["uri"].to_pylist() == ["2"]
    assert [problem.uri for problem in looked.problems] == ["1"]


@pytest.mark.parametrize(
    ("kind", "values", "later"),
    [
        ("TEXT", ["2026-01-02T03:04:05.5Z", "2026-01-02T03:04:06.5Z"], "2026-01-02T03:05:00.5Z"),
        ("TEXT", ["2026-01-02 03:04:05", "2026-01-02 03:04:06"], "2026-01-02 03:05:00"),
        ("INTEGER", [1_767_323_045, 1_767_323_046], 1_767_323_100),
        ("INTEGER", [1_767_323_045_500, 1_767_323_046_500], 1_767_323_100_500),
        ("REAL", [1_767_323_045.5, 1_767_323_046.5], 1_767_323_100.5),
        ("DATETIME", ["2026-01-02 03:04:05.500000", "2026-01-02 03:04:06.500000"], "2026-01-02 03:05:00.500000"),
    ],
)
def test_times_are_understood_however_the_database_writes_them(tmp_path, kind, values, later):
    file = File(tmp_path, f"id TEXT, body TEXT, at {kind}")
    for number, value in enumerate(values):
        file.add(str(number), "text", value)
    source = file.source(section={"overlap_seconds": 1})
    assert source.list().problems == ()
    assert source.list().items["modified_at"][0].as_py().replace(microsecond=0) == datetime(
        2026, 1, 2, 3, 4, 5, tzinfo=UTC
    )
    cursor = source.poll(None).cursor
    cursor = source.poll(cursor).cursor
    assert source.poll(cursor).hints == ()
    file.add("new", "text", later)
    assert source.poll(cursor).hints == (Hint("new"),)


def test_a_row_that_is_told_once_is_not_told_again_and_its_next_change_is(file):
    file.add("a", "text", LONG_AGO, None, None)
    source = file.source()
    first = source.poll(None)
    assert first.hints == (Hint("", subtree=True),)
    second = source.poll(first.cursor)
    third = source.poll(second.cursor)
    assert third.hints == ()
    file.connection.execute("UPDATE rows_ SET gone = '1'")  # by hand, and the time was forgotten
    assert source.poll(third.cursor).hints == ()
    deleted = file.source(deleted="gone").poll(third.cursor)
    assert deleted.hints == (Hint("a"),)


def test_a_row_that_may_still_change_within_its_second_is_told_again(file):
    now = datetime.now(UTC).replace(microsecond=0)
    file.add("a", "text", now.isoformat(), None, None)
    source = file.source()
    cursor = source.poll(None).cursor
    for _ in range(3):
        polled = source.poll(cursor)
        assert polled.hints == (Hint("a"),)
        cursor = polled.cursor


def test_a_great_change_becomes_one_hint_on_everything(file, monkeypatch):
    monkeypatch.setattr("pipelines.sources.database.source._MAX_HINTS", 3)
    file.add("a", "text", LONG_AGO, None, None)
    source = file.source()
    cursor = source.poll(None).cursor
    for number in range(5):
        file.add(str(number), "text", f"2026-01-02 03:05:0{number}.5", None, None)
    polled = source.poll(cursor)
    assert polled.hints == (Hint("", subtree=True),)
    assert datetime.fromisoformat(json.loads(polled.cursor)["after"]) == datetime(
        2026, 1, 2, 3, 5, 4, 500_000, tzinfo=UTC
    )


@pytest.mark.parametrize("cursor", ["", "no json", "[]", '{"after": "yesterday", "seen": []}', "{}"])
def test_a_cursor_that_cannot_be_read_means_that_everything_is_looked_at(file, cursor):
    file.add("a", "text", LONG_AGO, None, None)
    assert file.source().poll(cursor).hints == (Hint("", subtree=True),)


def test_a_table_that_was_empty_is_polled_from_then_on(file):
    source = file.source()
    first = source.poll(None)
    assert source.poll(first.cursor).hints == ()
    at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    file.add("a", "text", at, None, None)
    assert source.poll(first.cursor).hints == (Hint("a"),)


def test_a_row_of_a_moment_ago_is_given_without_an_etag(file):
    now = datetime.now(UTC)
    file.add("fresh", "text", now.isoformat(), None, None)
    file.add("coarse", "text", (now - timedelta(seconds=100)).replace(microsecond=0).isoformat(), None, None)
    file.add("fine", "text", (now - timedelta(seconds=100)).replace(microsecond=1).isoformat(), None, None)
    file.add("ahead", "text", (now + timedelta(days=1)).isoformat(), None, None)
    found = answers(file.source(), "fresh", "coarse", "fine", "ahead")
    assert {uri for uri, answer in found.items() if answer.etag is not None} == {"fine"}


def test_a_text_above_the_limit_is_not_even_asked_for(file):
    file.add("big", "x" * 11, LONG_AGO, None, None)
    file.add("wide", "ä" * 9, LONG_AGO, None, None)
    file.add("good", "x" * 10, LONG_AGO, None, None)
    found = answers(file.source(section={"max_bytes": 10}), "big", "wide", "good")
    assert found["good"].content == b"x" * 10
    for uri in ("big", "wide"):
        assert isinstance(found[uri], FetchFailure)
        assert (found[uri].error_class, found[uri].transient) == ("TooLarge", False)
        assert "max_bytes" in found[uri].message


def test_readers_that_are_none_hide_the_row_and_are_told(file):
    for uri, who in (
        ("a", '["group:hr"]'),
        ("b", "user:ada\ngroup:R&D, Berlin"),
        ("c", "everybody"),
        ("d", None),
        ("e", ""),
    ):
        file.add(uri, "text", LONG_AGO, None, who)
    listing = file.source(readers="who").list()
    assert listing.reports_readers
    told = dict(zip(listing.items["uri"].to_pylist(), listing.items["readers"].to_pylist(), strict=True))
    assert told == {"a": ["group:hr"], "b": ["group:R&D, Berlin", "user:ada"], "c": [], "d": None, "e": []}
    assert [(problem.uri, problem.error_class) for problem in listing.problems] == [("c", "BadReaders")]


def test_names_are_quoted_and_never_part_of_the_statement(tmp_path):
    file = File(tmp_path, '"id; DROP TABLE rows_" TEXT, "select" TEXT, "at""" TEXT')
    file.add("'; DROP TABLE rows_; --", "text", LONG_AGO)
    source = file.source(key="id; DROP TABLE rows_", text="select", updated_at='at"')
    uris = source.list().items["uri"].to_pylist()
    assert isinstance(answers(source, *uris)[uris[0]], Fetched)
    assert source.look([Hint(uris[0])]).items.num_rows == 1
    assert source.list().items.num_rows == 1


def test_a_missing_file_is_an_error_and_is_not_made(tmp_path):
    file = File(tmp_path)
    path = tmp_path / "missing.db"
    source = file.source(section={"url": f"sqlite:///{path}"})
    with pytest.raises(SourceError, match=r"missing\.db"):
        source.list()
    assert not path.exists()


def test_a_missing_table_or_column_is_told_with_what_there_is_and_not_tried_again(file):
    with pytest.raises(SourceError, match="rows_") as error:
        file.source(section={"table": "articles"}).list()
    assert not error.value.transient
    with pytest.raises(SourceError, match=r"no column 'headline'.*body"):
        file.source(title="headline").list()
    assert [check.name for check in file.source(title="headline").check() if not check.ok] == ["table"]


def configured(tmp_path: Path, url: str) -> DatabaseSource:
    path = tmp_path / "lockstep.yaml"
    lines = ["index: test", "sources:", "  - name: cms", "    kind: database", f"    url: {json.dumps(url)}"]
    lines += ["    table: articles", "    columns: {key: id, text: body, updated_at: at}"]
    path.write_text("\n".join(lines))
    found = load_config(path).sources[0]
    assert isinstance(found, DatabaseSource)
    return found


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("postgresql://ada:secret@db/cms", "password_env"),
        ("postgresql://ada:@db/cms", "password_env"),
        ("postgresql://db/cms?user=ada&password=secret", "password_env"),
        ("mysql+pymysql://ada:se/cr@et@db/cms", "password_env"),
        ("cms.db", "postgresql"),
        ("sqlite://", "sqlite:///FILE"),
        ("sqlite:///:memory:", "sqlite:///FILE"),
    ],
)
def test_a_password_in_the_url_or_no_database_is_refused(tmp_path, url, advice):
    with pytest.raises(ConfigError, match=r"lockstep\.yaml:5") as error:
        configured(tmp_path, url)
    assert advice in str(error.value)


def test_a_file_is_taken_from_the_folder_of_the_configuration(tmp_path):
    assert configured(tmp_path, "sqlite:///data/cms.db").url == f"sqlite:///{tmp_path}/data/cms.db"
    assert configured(tmp_path, "sqlite:////var/cms.db").url == "sqlite:////var/cms.db"
    assert configured(tmp_path, "postgresql://db/cms").url == "postgresql://db/cms"


def test_a_secret_that_is_not_set_and_a_driver_that_is_not_there_are_told(file, monkeypatch):
    monkeypatch.delenv("NO_SUCH_SECRET", raising=False)
    wanting = file.source(section={"url": "postgresql://ada@db/cms", "password_env": "NO_SUCH_SECRET"})
    with pytest.raises(ConfigError, match="NO_SUCH_SECRET"):
        wanting.list()
    for url in ("nosuchthing://db/cms", "postgresql+nosuchdriver://db/cms", "postgresql://db:port/cms"):
        source = file.source(section={"url": url})
        with pytest.raises(ConfigError, match="cms"):
            source.list()
        assert [check.name for check in source.check() if not check.ok] == ["connect"]


@pytest.mark.parametrize(
    ("values", "uri"),
    [
        (("a/b",), "a/b"),
        (("100%",), "100%25"),
        (("..",), "%2E%2E"),
        ((42,), "42"),
        ((UUID(int=1),), str(UUID(int=1))),
        ((Decimal("1.50"),), "1.50"),
        ((date(2026, 1, 2),), "2026-01-02"),
        (("a/b", "c"), "a%2Fb/c"),
        (("a%2Fb", "c"), "a%252Fb/c"),
    ],
)
def test_a_key_and_its_uri_lead_to_each_other(values, uri):
    assert uri_of(values) == uri
    assert key_of(uri, len(values)) == tuple(str(value) for value in values)


@pytest.mark.parametrize("value", [None, "", True, 1.5, b"x", "\ud800", ["a"], {}])
def test_what_cannot_be_a_key_is_told(value):
    with pytest.raises(BadRow):
        uri_of([value])


@pytest.mark.parametrize("value", [None, "", "yesterday", "infinity", True, b"x", 10**40, [], "0000-00-00"])
def test_what_is_no_time_is_told(value):
    with pytest.raises(BadRow):
        stamp(value)


def test_fractions_of_a_second_are_seen_in_every_form():
    fine = ["2026-01-02 03:04:05.5", "2026-01-02T03:04:05.000001+00:00", "1767323045500", "1767323045.25"]
    coarse = ["2026-01-02 03:04:05", "2026-01-02T03:04:05.000000-05:00", "1767323045", "1767323045000", "2026-01-02"]
    assert [has_fraction(etag) for etag in fine] == [True] * len(fine)
    assert [has_fraction(etag) for etag in coarse] == [False] * len(coarse)


def test_a_tombstone_is_true_or_a_time():
    assert not any(map(is_deleted, [None, False, 0, "", "0", "false", " F ", "no", b"\0", Decimal(0)]))
    assert all(map(is_deleted, [True, 1, "1", "true", "2026-01-02", b"\1", date(2026, 1, 2)]))


@pytest.mark.parametrize(
    "value", ["everybody", "[1]", "[broken", ["group: a"], "user:ada, group:hr", "user:ada group:hr", 7, {"group": "a"}]
)
def test_readers_that_are_no_principals_are_told(value):
    with pytest.raises(AccessError):
        readers_of(value)
