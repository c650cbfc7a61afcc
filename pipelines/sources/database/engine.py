"""Connections to a database, read only, and what its errors mean to somebody who has to act."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from pipelines.errors import ConfigError, RateLimited, SourceError, SourceForbidden
from pipelines.sources.section import secret

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from pipelines.sources.database.section import DatabaseSource

_CONNECT_SECONDS = 10
_ATTEMPTS = 3
_T = TypeVar("_T")

_FORBIDDEN_STATES = ("28", "42501")  # invalid authorization, insufficient privilege
_FORBIDDEN_WORDS = ("password authentication failed", "no password supplied", "permission denied", "access denied")
_LASTING_STATES = ("3D000", "42", "0A", "22")  # no such database, no such thing, not supported, bad data


def make_engine(section: DatabaseSource) -> Engine:
    """An engine that keeps no connection open between two uses.

    Raises:
        ConfigError: the url is wrong, its driver is not installed, or the password's variable is not set.
    """
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = sa.make_url(section.url)
        if section.password_env:
            url = url.set(password=secret(section, section.password_env))
        if url.get_backend_name() == "sqlite":
            return sa.create_engine(
                "sqlite://", creator=lambda: _open_sqlite(url.database or ""), poolclass=sa.NullPool
            )
        return sa.create_engine(url, connect_args=_arguments(section, url), poolclass=sa.NullPool)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"source {section.name!r}: the key `url` is no address of a database ({error}); "
            "write for instance postgresql+psycopg://USER@HOST/DATABASE or sqlite:///FILE"
        ) from None
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"source {section.name!r}: the driver that `url` names is not installed ({error}); install it, or name "
            "another one, such as postgresql+psycopg"
        ) from None


def _arguments(section: DatabaseSource, url: Any) -> dict[str, Any]:
    if url.get_backend_name() != "postgresql" or url.get_driver_name() not in ("psycopg", "psycopg2"):
        return {}
    own = f"-c timezone=UTC -c datestyle=ISO -c statement_timeout={round(section.stall_seconds * 1_000)}"
    options = f"{url.query.get('options', '')} {own}".strip()
    return {"connect_timeout": _CONNECT_SECONDS, "options": options, "application_name": "lockstep"}


def _open_sqlite(path: str) -> sqlite3.Connection:
    """Read only, so that a wrong path makes no empty file; text that is not UTF-8 does not end the whole reading."""
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=_CONNECT_SECONDS)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


@contextmanager
def reading(section: DatabaseSource, engine: Engine, action: str) -> Iterator[Connection]:
    """A connection; the database's errors inside the block become ours.

    Raises:
        SourceForbidden: wrong password, or no right to read.
        SourceError: it does not answer, or broke off.
    """
    import sqlalchemy as sa

    try:
        with engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection = connection.execution_options(postgresql_readonly=True)
            yield connection
    except (sa.exc.SQLAlchemyError, sqlite3.Error, UnicodeError, OSError) as error:
        raise explained(section, error, action) from error


def explained(section: DatabaseSource, error: Exception, action: str) -> SourceError:
    """The database's error as one of ours; see `reading`."""
    origin = getattr(error, "orig", None) or error
    state = str(getattr(origin, "sqlstate", None) or "")
    said = " ".join(str(origin).split()) or type(origin).__name__
    begin = f"source {section.name!r}: cannot {action} of {section.table!r} in {section.shown_url}"
    if state.startswith(_FORBIDDEN_STATES) or any(words in said.lower() for words in _FORBIDDEN_WORDS):
        where = f"the variable {section.password_env}" if section.password_env else "`password_env`"
        return SourceForbidden(
            f"{begin}: {said}. Correct the user in `url` or the password in {where}, and allow SELECT on the table"
        )
    if state == "53300":
        return RateLimited(f"{begin}: {said}; it has too many connections", retry_after_seconds=None)
    if state == "57014":
        return SourceError(
            f"{begin}: a statement took longer than {section.stall_seconds:g} seconds; an index on the column of "
            "`updated_at` helps, or a larger `stall_seconds`"
        )
    found = SourceError(f"{begin}: {said}. Check that it runs and that `url` is right; nothing was changed")
    if state.startswith(_LASTING_STATES) or isinstance(error, UnicodeError):
        found.transient = False
    return found


def again(work: Callable[[], _T]) -> _T:
    """Try something up to three times, with short and growing pauses, as long as its error may pass.

    Raises:
        SourceError: the last one.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    def may_pass(error: BaseException) -> bool:
        return isinstance(error, SourceError) and error.transient and not isinstance(error, RateLimited)

    retrying = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=2),
        retry=retry_if_exception(may_pass),
        reraise=True,
    )
    return retrying(work)


def now(connection: Connection) -> datetime:
    """The time by the database's clock, UTC; of SQLite, which has none, by this machine's."""
    import sqlalchemy as sa

    name = connection.dialect.name
    if name == "sqlite":
        return datetime.now(UTC)
    clock = {"postgresql": sa.func.clock_timestamp(), "mysql": sa.func.utc_timestamp(6)}.get(name, sa.func.now())
    found = connection.execute(sa.select(clock)).scalar_one()
    at = found if isinstance(found, datetime) else datetime.fromisoformat(str(found))
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
