"""What the configuration of a source of kind `database` has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator

from pipelines.sources.section import Section, SourceSection, Variable

_PASSWORD = re.compile(r"^[^:]+://[^/@]*:[^@]*@|[?&]password=", re.IGNORECASE)
_SQLITE = re.compile(r"^(sqlite(?:\+\w+)?:///)(?!/)(.+)$")


class DatabaseColumns(Section):
    """Which column is what. `key` is unique; `updated_at` changes with every change of a row."""

    key: tuple[str, ...] = Field(min_length=1)
    text: str
    updated_at: str
    title: str | None = None
    author: str | None = None
    created: str | None = None
    modified: str | None = None
    version_label: str | None = None
    media_type: str | None = None
    deleted: str | None = None  # a tombstone: true, or the time of the deletion
    readers: str | None = None

    @field_validator("key", mode="before")
    @classmethod
    def _one_or_several(cls, key: object) -> object:
        return (key,) if isinstance(key, str) else key

    def described(self) -> dict[str, str]:
        """The metadata columns that there are, by what they say."""
        names = ("title", "author", "created", "modified", "version_label", "media_type")
        return {name: column for name in names if (column := getattr(self, name)) is not None}

    def names(self) -> tuple[str, ...]:
        """Every column that is used, once."""
        optional = [name for name in (self.deleted, self.readers) if name is not None]
        return tuple(dict.fromkeys([*self.key, self.text, self.updated_at, *optional, *self.described().values()]))


class DatabaseSource(SourceSection):
    """Rows of a table or view."""

    kind: Literal["database"]
    url: str  # SQLAlchemy's form, without the password
    password_env: Variable | None = None
    table: str = Field(min_length=1)  # or view; SCHEMA.TABLE
    columns: DatabaseColumns
    overlap_seconds: float = Field(default=300, ge=0)  # transactions may take so long, and clocks differ by so much

    @field_validator("url")
    @classmethod
    def _no_secret_and_a_place(cls, url: str) -> str:
        if _PASSWORD.search(url):
            raise ValueError(
                "it holds a password; leave it out, put it into an environment variable and name that in `password_env`"
            )
        if "://" not in url:
            raise ValueError("no database url; write for instance postgresql+psycopg://USER@HOST/DATABASE")
        if url.startswith("sqlite") and (":memory:" in url or not url.partition(":///")[2]):
            raise ValueError("a database in memory holds nothing; name a file: sqlite:///FILE")
        return url

    def located(self, folder: Path) -> Self:
        """With a relative SQLite file taken from the configuration file's folder."""
        found = _SQLITE.match(self.url)
        return self.model_copy(update={"url": f"{found[1]}{folder / found[2]}"}) if found else self

    @property
    def reports_readers(self) -> bool:
        """Where one of its columns names them."""
        return self.columns.readers is not None

    @property
    def shown_url(self) -> str:
        """The url for messages."""
        return self.url.partition("?")[0]
