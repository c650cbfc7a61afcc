from pathlib import Path

import pytest
import sqlalchemy as sa

from pipelines.sources.addresses.uris import decode_uri
from pipelines.sources.database.section import DatabaseColumns, DatabaseSource
from pipelines.sources.database.source import Database
from tests.source_contract import Harness, SourceContract

COLUMNS = DatabaseColumns(key="path", text="body", updated_at="changed_at", deleted="deleted_at")


class SqliteHarness(Harness):
    polls = True

    def __init__(self, folder: Path, *, tombstones: bool = False) -> None:
        self.file = folder / "cms.db"
        self.section = DatabaseSource(
            name="cms",
            kind="database",
            url=f"sqlite:///{self.file}",
            table="articles",
            columns=COLUMNS,
            max_bytes=1_000,
        )
        self.engine = sa.create_engine(f"sqlite:///{self.file}", poolclass=sa.NullPool)
        self.run(
            "CREATE TABLE articles (path TEXT PRIMARY KEY, body TEXT, changed_at TEXT NOT NULL, deleted_at TEXT, "
            "title TEXT, readers TEXT)"
        )
        self.tombstones = tombstones
        self._seconds = 0

    def run(self, statement: str, **values) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)

    def open(self):
        return Database(self.section)

    def put(self, uri, content):
        self.run(
            "INSERT INTO articles (path, body, changed_at) VALUES (:path, :body, :at) ON CONFLICT (path) DO UPDATE "
            "SET body = excluded.body, changed_at = excluded.changed_at, deleted_at = NULL",
            path=decode_uri(uri).decode(),
            body=content.decode(),
            at=self.tick(),
        )

    def delete(self, uri):
        path = decode_uri(uri).decode()
        if self.tombstones:
            self.run(
                "UPDATE articles SET deleted_at = :at, changed_at = :at WHERE path = :path", path=path, at=self.tick()
            )
        else:
            self.run("DELETE FROM articles WHERE path = :path", path=path)

    def tick(self) -> str:
        self._seconds += 1
        return f"2026-01-02 03:{self._seconds // 60:02}:{self._seconds % 60:02}.250000"

    def break_(self):
        self.file.rename(self.file.with_suffix(".away"))

    def mend(self):
        self.file.with_suffix(".away").rename(self.file)


class TestSqlite(SourceContract):
    @pytest.fixture(params=["rows removed", "tombstones"])
    def harness(self, tmp_path, request):
        return SqliteHarness(tmp_path, tombstones=request.param == "tombstones")
