"""The source `database` against a real PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from pipelines.errors import SourceError, SourceForbidden
from pipelines.sources.addresses.uris import decode_uri
from pipelines.sources.base import Fetched, FetchFailure, Hint
from pipelines.sources.database.section import DatabaseColumns, DatabaseSource
from pipelines.sources.database.source import Database
from tests.integration.servers.postgres import PASSWORD, Postgres, postgres
from tests.source_contract import Harness, SourceContract, fetched, rows, uris

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 2, 3, 4, 5, 250_000, tzinfo=UTC)
_numbers = iter(range(1_000))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture(autouse=True)
def password(monkeypatch) -> None:
    monkeypatch.setenv("CMS_PASSWORD", PASSWORD)


class PostgresHarness(Harness):
    polls = True

    def __init__(self, server: Postgres, *, body: str = "text") -> None:
        self.server = server
        self.schema = f"Cms {next(_numbers)}"  # needs quoting
        self.section = DatabaseSource(
            name="cms",
            kind="database",
            url=server.url,
            password_env="CMS_PASSWORD",
            table=f"{self.schema}.Articles",
            columns=DatabaseColumns(key="path", text="body", updated_at="changed at"),
            max_bytes=1_000,
        )
        self.body = body
        self.engine = sa.create_engine(server.url_with_password, poolclass=sa.NullPool)
        self.run(f'CREATE SCHEMA "{self.schema}"')
        self.run(
            f'CREATE TABLE "{self.schema}"."Articles" (path text PRIMARY KEY, body {body}, '
            '"changed at" timestamptz, title text, gone boolean DEFAULT false, readers text[], created date)'
        )
        self.at = START

    def run(self, statement: str, **values) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def using(self, **columns) -> Database:
        columns = {**self.section.columns.model_dump(exclude_none=True), **columns}
        return Database(self.section.model_copy(update={"columns": DatabaseColumns(**columns)}))

    def open(self):
        return Database(self.section)

    def put(self, uri, content):
        self.at += timedelta(seconds=1)
        self.run(
            f'INSERT INTO "{self.schema}"."Articles" (path, body, "changed at") VALUES (:path, :body, :at) '
            'ON CONFLICT (path) DO UPDATE SET body = excluded.body, "changed at" = excluded."changed at"',
            path=decode_uri(uri).decode(),
            body=content.decode() if self.body == "text" else content,
            at=self.at,
        )

    def change(self, what: str, **values) -> None:
        self.run(f'UPDATE "{self.schema}"."Articles" SET {what}', **values)

    def delete(self, uri):
        path = decode_uri(uri).decode()
        self.run(f'DELETE FROM "{self.schema}"."Articles" WHERE path = :path', path=path)

    def break_(self):
        self.server.stop()

    def mend(self):
        self.server.start()


class TestPostgres(SourceContract):
    @pytest.fixture(params=["text", "bytea"])
    def harness(self, server, request):
        yield PostgresHarness(server, body=request.param)
        if server._process is None:
            server.start()


@pytest.fixture
def harness(server):
    return PostgresHarness(server)


@pytest.mark.parametrize("secret", ["wrong", "wrong@:/%"])
def test_a_wrong_password_is_told_and_not_tried_again_or_shown(harness, monkeypatch, secret):
    monkeypatch.setenv("CMS_PASSWORD", secret)
    with pytest.raises(SourceForbidden, match="CMS_PASSWORD") as error:
        harness.open().list()
    assert secret not in str(error.value).replace("CMS_PASSWORD", "")
    failed = [check for check in harness.open().check() if not check.ok]
    assert [check.name for check in failed] == ["connect"]


def test_a_user_without_the_right_to_select_is_told_which_right_is_needed(harness, monkeypatch):
    user = f"nobody{next(_numbers)}"
    harness.run(f"CREATE ROLE {user} LOGIN PASSWORD 'let me in'")
    harness.run(f'GRANT USAGE ON SCHEMA "{harness.schema}" TO {user}')
    monkeypatch.setenv("CMS_PASSWORD", "let me in")
    url = harness.section.url.replace("lockstep@", f"{user}@")
    source = Database(harness.section.model_copy(update={"url": url}))
    with pytest.raises(SourceForbidden, match="SELECT"):
        source.list()
    assert [check.name for check in source.check() if not check.ok] == ["read"]


def test_a_missing_table_or_column_is_told_with_what_there_is(harness):
    section = harness.section.model_copy(update={"table": f"{harness.schema}.articles"})
    with pytest.raises(SourceError, match="Articles"):
        Database(section).list()
    with pytest.raises(SourceError, match=r"has no column 'headline'.*title"):
        harness.using(title="headline").list()


def test_a_view_can_be_a_source(harness):
    harness.put("a.md", b"one")
    harness.run(
        f'CREATE VIEW "{harness.schema}"."Shown" AS SELECT path, upper(body) AS body, "changed at" '
        f'FROM "{harness.schema}"."Articles"'
    )
    section = harness.section.model_copy(update={"table": f"{harness.schema}.Shown"})
    assert fetched(Database(section), uris(Database(section).list()))["a.md"].content == b"ONE"


def test_a_row_whose_time_python_cannot_hold_is_a_problem_and_the_others_go_on(harness):
    for name in ("a", "b", "c"):
        harness.put(name, b"text")
    harness.change("\"changed at\" = 'infinity' WHERE path = 'b'")
    listing = harness.open().list()
    assert uris(listing) == {"a", "c"}
    assert [(problem.uri, problem.error_class) for problem in listing.problems] == [("b", "BadTime")]
    harness.change("\"changed at\" = NULL WHERE path = 'b'")
    assert [problem.error_class for problem in harness.open().list().problems] == ["MissingTime"]


def test_a_row_that_cannot_be_decoded_fails_alone(harness):
    for name in ("a", "b", "c", "d"):
        harness.put(name, b"text")
    harness.change("created = 'infinity' WHERE path = 'b'")
    harness.change("body = NULL WHERE path = 'c'")
    source = harness.using(created="created")
    answers = fetched(source, uris(source.list()))
    assert {uri for uri, answer in answers.items() if isinstance(answer, Fetched)} == {"a", "d"}
    assert answers["b"].error_class == "BadRow"
    assert answers["c"].error_class == "MissingText"


def test_rows_tell_title_readers_and_whether_they_are_deleted(harness):
    for name in ("a", "b", "c", "d"):
        harness.put(name, b"text")
    harness.change("title = 'Heading', created = '2025-12-31', readers = '{group:hr,user:ada}' WHERE path = 'a'")
    harness.change("gone = true WHERE path = 'b'")
    harness.change("readers = '{everybody}' WHERE path = 'c'")
    source = harness.using(title="title", created="created", deleted="gone", readers="readers")
    listing = source.list()
    assert listing.reports_readers
    told = {uri: row["readers"] for uri, row in rows(listing).items()}
    assert told == {"a": ["group:hr", "user:ada"], "c": [], "d": None}
    assert [(problem.uri, problem.error_class) for problem in listing.problems] == [("c", "BadReaders")]
    assert fetched(source, ["a"])["a"].metadata == {"title": "Heading", "created": "2025-12-31"}
    assert isinstance(fetched(source, ["b"])["b"], FetchFailure)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("uuid", ["6f9619ff-8b86-d011-b42d-00c04fc964ff"]),
        ("bigint", ["42", "-7"]),
        ("date", ["2026-01-02"]),
        ("numeric", ["12.50"]),
    ],
)
def test_keys_of_other_types_are_listed_looked_at_and_fetched(harness, kind, values):
    harness.run(f'CREATE TABLE "{harness.schema}".odd (id {kind} PRIMARY KEY, body text, at timestamp)')
    for value in values:
        harness.run(f"INSERT INTO \"{harness.schema}\".odd VALUES ('{value}', 'text', '2026-01-02 03:04:05.5')")
    columns = DatabaseColumns(key="id", text="body", updated_at="at")
    source = Database(harness.section.model_copy(update={"table": f"{harness.schema}.odd", "columns": columns}))
    assert uris(source.list()) == set(values)
    assert uris(source.look([Hint(value) for value in [*values, "no such key", "0"]])) == set(values)
    assert all(isinstance(answer, Fetched) for answer in fetched(source, values).values())
    assert source.poll(source.poll(None).cursor).hints


def test_a_key_of_several_columns_never_stands_for_two_rows(harness):
    harness.run(
        f'CREATE TABLE "{harness.schema}".parts (tenant text, id text, body text, at timestamptz, '
        "PRIMARY KEY (tenant, id))"
    )
    for tenant, number in (("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c")):
        harness.run(
            f"INSERT INTO \"{harness.schema}\".parts VALUES (:tenant, :id, :body, '2026-01-02 03:04:05.5+00')",
            tenant=tenant,
            id=number,
            body=f"{tenant} {number}",
        )
    columns = DatabaseColumns(key=("tenant", "id"), text="body", updated_at="at")
    source = Database(harness.section.model_copy(update={"table": f"{harness.schema}.parts", "columns": columns}))
    found = fetched(source, uris(source.list()))
    assert {uri: answer.content for uri, answer in found.items()} == {
        "a%2Fb/c": b"a/b c",
        "a/b%2Fc": b"a b/c",
        "a%252Fb/c": b"a%2Fb c",
    }


def test_a_write_that_is_committed_late_with_an_earlier_time_is_polled(harness):
    harness.put("a", b"one")
    cursor = harness.open().poll(None).cursor
    with harness.engine.connect() as late:
        late.execute(
            sa.text(f'INSERT INTO "{harness.schema}"."Articles" (path, body, "changed at") VALUES (:p, :b, :at)'),
            {"p": "late", "b": "text", "at": harness.at + timedelta(seconds=1)},
        )
        harness.at += timedelta(seconds=100)
        harness.put("b", b"two")
        polled = harness.open().poll(cursor)
        assert {hint.uri for hint in polled.hints} == {"a", "b"}  # "a": whether it was told, a first cursor cannot say
        late.commit()
    again = harness.open().poll(polled.cursor)
    assert {hint.uri for hint in again.hints} == {"late"}
    assert harness.open().poll(again.cursor).hints == ()


def test_a_time_in_the_far_future_neither_moves_the_cursor_nor_hides_what_comes(harness):
    harness.put("a", b"one")
    cursor = harness.open().poll(None).cursor
    harness.change("\"changed at\" = '2999-01-01' WHERE path = 'a'")
    polled = harness.open().poll(cursor)
    assert {hint.uri for hint in polled.hints} == {"a"}
    harness.run(
        f'INSERT INTO "{harness.schema}"."Articles" (path, body, "changed at") VALUES (\'b\', \'x\', clock_timestamp())'
    )
    assert {hint.uri for hint in harness.open().poll(polled.cursor).hints} == {"a", "b"}


def test_a_row_written_a_moment_ago_has_no_etag_until_its_time_can_be_believed(harness):
    harness.put("a", b"one")
    harness.change('"changed at" = clock_timestamp()')
    answer = fetched(harness.open(), ["a"])["a"]
    assert isinstance(answer, Fetched)
    assert answer.etag is None
    harness.change("\"changed at\" = date_trunc('second', clock_timestamp()) - interval '1 minute'")
    assert fetched(harness.open(), ["a"])["a"].etag is None  # whole seconds, and clocks may differ by minutes
    harness.change("\"changed at\" = clock_timestamp() - interval '1 minute'")
    assert fetched(harness.open(), ["a"])["a"].etag is not None


def test_a_connection_that_breaks_in_the_middle_of_a_listing_is_an_error(harness, monkeypatch):
    monkeypatch.setattr("pipelines.sources.database.source._LIST_ROWS", 10)
    harness.run(
        f'INSERT INTO "{harness.schema}"."Articles" (path, body, "changed at") '
        "SELECT 'doc' || n, 'text', timestamptz '2026-01-02' FROM generate_series(1, 5000) n"
    )

    def cut(done: int, total: int) -> None:
        harness.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lockstep' AND "
            "pid <> pg_backend_pid()"
        )

    with pytest.raises(SourceError, match="cms"):
        harness.open().list(progress=cut)
    assert len(harness.open().list().items) == 5_000
