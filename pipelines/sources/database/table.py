"""A table or view as reflection finds it, and the SELECT statements over it. Every name is quoted by SQLAlchemy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pipelines.errors import SourceError
from pipelines.sources.database.rows import BadRow, key_of, scale_of, stamp

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select, TableClause

    from pipelines.sources.database.section import DatabaseSource

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_WHOLE = re.compile("0|-?[1-9][0-9]{0,17}")
_SHOWN = 30  # names in a message


@dataclass(frozen=True, slots=True)
class TableOfRows:
    """The table, its columns' types, and the dialect."""

    section: DatabaseSource
    table: TableClause
    types: dict[str, Any]
    dialect: str

    @classmethod
    def reflect(cls, section: DatabaseSource, connection: Connection) -> TableOfRows:
        """Look at what is there.

        Raises:
            SourceError: no such table, or a column of `columns` is missing; what exists is listed.
        """
        import sqlalchemy as sa

        schema, _, name = section.table.rpartition(".")
        inspector = sa.inspect(connection)
        try:
            found = {str(column["name"]): column["type"] for column in inspector.get_columns(name, schema or None)}
        except sa.exc.NoSuchTableError:
            exists = [*inspector.get_table_names(schema or None), *inspector.get_view_names(schema or None)]
            raise _lasting(
                f"source {section.name!r}: there is no table or view {section.table!r} in {section.shown_url}; there "
                f"are {_shown(exists)}. Correct the key `table` (SCHEMA.TABLE), or allow this user to see it"
            ) from None
        missing = [name for name in section.columns.names() if name not in found]
        if missing:
            raise _lasting(
                f"source {section.name!r}: {section.table!r} has no column {', '.join(map(repr, missing))}; it has "
                f"{_shown(found)}. Correct the key `columns`"
            )
        columns: list[Any] = [sa.column(name) for name in section.columns.names()]
        return cls(section, sa.table(name, *columns, schema=schema or None), found, connection.dialect.name)

    def keys(self) -> Select[Any]:
        """Key columns, time of the last change, tombstone, readers (NULL where there is no such column)."""
        import sqlalchemy as sa

        columns = self.section.columns
        chosen = [self._plain(name) for name in columns.key]
        deleted = sa.null() if columns.deleted is None else self._plain(columns.deleted)
        chosen += [self._plain(columns.updated_at), deleted, self._or_null(columns.readers)]
        return sa.select(*(column.label(f"c{n}") for n, column in enumerate(chosen)))

    def documents(self) -> Select[Any]:
        """What `keys` selects, then the length of the text, the text if it is not too long, and all metadata."""
        import sqlalchemy as sa

        columns = self.section.columns
        text = self.table.c[columns.text]
        length = sa.func.len(text) if self.dialect == "mssql" else sa.func.length(text)
        rest = [length, sa.case((length <= self.section.max_bytes, text), else_=sa.null())]
        rest += [self._or_null(name) for name in columns.described().values()]
        return self.keys().add_columns(*(column.label(f"d{n}") for n, column in enumerate(rest)))

    def of_uris(self, select: Select[Any], uris: Iterable[str]) -> Select[Any] | None:
        """The rows with these uris; None if no row can have one of them."""
        import sqlalchemy as sa

        names = self.section.columns.key
        keys = [texts for uri in uris if (texts := key_of(uri, len(names))) is not None]
        typed = [parts for texts in keys if (parts := self._typed(texts)) is not None]
        if not typed:
            return None
        columns: list[ColumnElement[Any]] = [self._typed_column(name) for name in names]
        if len(columns) == 1:
            return select.where(columns[0].in_([value for parts in typed for value in parts[0]]))
        each = [
            sa.and_(*(column.in_(values) for column, values in zip(columns, parts, strict=True))) for parts in typed
        ]
        return select.where(sa.or_(*each))

    def newest(self, connection: Connection) -> object:
        """The latest time of a change, as the database has it; None for an empty table."""
        import sqlalchemy as sa

        name = self.section.columns.updated_at
        highest = sa.select(sa.func.max(self.table.c[name]))
        if not isinstance(self.types[name], sa.Numeric | sa.Integer):  # what is no time, such as infinity, is passed by
            highest = highest.where(self._typed_column(name) < self._bound(_LATEST, " "))
        return connection.execute(highest).scalar_one()

    def changed_since(self, moment: datetime, newest: object) -> Select[Any]:
        """`keys` of the rows whose last change is not before a moment. `newest` tells how times are written here."""
        if isinstance(newest, int | float | Decimal):
            bound: object = moment.timestamp() * scale_of(float(newest))
        else:
            bound = self._bound(moment, "T" if "T" in str(newest) else " ")
        return self.keys().where(self._typed_column(self.section.columns.updated_at) >= bound)

    def _bound(self, moment: datetime, between: str) -> object:
        """A moment as a value to compare the time column with; as text it sorts before all times of its second."""
        import sqlalchemy as sa

        kind = self.types[self.section.columns.updated_at]
        if self.dialect != "sqlite" and isinstance(kind, sa.DateTime):
            return moment if kind.timezone else moment.replace(tzinfo=None)
        if self.dialect != "sqlite" and isinstance(kind, sa.Date):
            return moment.date()
        return moment.strftime(f"%Y-%m-%d{between}%H:%M:%S")

    def _typed_column(self, name: str) -> ColumnElement[Any]:
        """For comparisons; SQLite compares what is stored, whatever the column was declared as."""
        import sqlalchemy as sa

        return sa.column(name) if self.dialect == "sqlite" else sa.column(name, self.types[name])

    def _plain(self, name: str) -> ColumnElement[Any]:
        """As text from PostgreSQL, so that a value which Python cannot hold (infinity) spoils only its own row."""
        import sqlalchemy as sa

        column = self.table.c[name]
        return sa.cast(column, sa.Text) if self.dialect == "postgresql" else column

    def _or_null(self, name: str | None) -> ColumnElement[Any]:
        import sqlalchemy as sa

        return sa.null() if name is None else self.table.c[name]

    def _typed(self, texts: Sequence[str]) -> list[list[object]] | None:
        """For each key column the values that its text may stand for; None if it can stand for none."""
        names = self.section.columns.key
        if self.dialect == "sqlite":  # what a column was declared as says little of what is in it
            return [[text, int(text)] if _WHOLE.fullmatch(text) else [text] for text in texts]
        parts = [_values(text, self.types[name]) for text, name in zip(texts, names, strict=True)]
        return parts if all(parts) else None


def _values(text: str, kind: Any) -> list[object]:
    try:
        expected = kind.python_type
    except NotImplementedError:
        expected = None
    try:
        if expected is int:
            return [int(text)]
        if expected is UUID:
            return [UUID(text)]
        if expected in (Decimal, float):
            return [Decimal(text)]
        if expected is datetime:
            return [stamp(text)[1] if getattr(kind, "timezone", False) else stamp(text)[1].replace(tzinfo=None)]
        if expected is date:
            return [date.fromisoformat(text)]
    except (ValueError, ArithmeticError, BadRow):
        return []
    return [text]


def _shown(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN:,} more" if len(ordered) > _SHOWN else ""
    return (", ".join(ordered[:_SHOWN]) or "none") + more


def _lasting(message: str) -> SourceError:
    error = SourceError(message)
    error.transient = False
    return error
