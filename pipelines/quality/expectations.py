"""The kinds of expectation: plain records that both engines understand.

A null is not looked at, except by `NotNull`, and a NaN is a null: what measures a column makes sure that the fault
shows in another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.quality.outcome import Severity

Value = str | int | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Something that must hold for one column of every row.

    Attributes:
        name: unique in its suite.
        column: of the measured rows.
        when: a column and values; rows that have none of them are left out.
        severity: what a failing row means.
    """

    name: str
    column: str
    when: tuple[str, tuple[str, ...]] | None = None
    severity: Severity = "error"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values explain a failing row."""
        return (self.column,)

    @property
    def expected(self) -> str:
        """In words, with the condition."""
        if self.when is None:
            return self._claim()
        column, values = self.when
        shown = values[0] if len(values) == 1 else f"one of {len(values)} values"
        return f"{self._claim()}, where {column} is {shown}"

    def applies(self, rows: pa.Table) -> pa.ChunkedArray:
        """A mask of the rows that are looked at."""
        if self.when is None:
            return pa.chunked_array([pa.repeat(pa.scalar(True), rows.num_rows)])
        column, values = self.when
        return pc.is_in(rows[column], value_set=pa.array(values, pa.string()))

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        """Per row true or false; null where there is nothing to compare."""
        raise NotImplementedError

    def _claim(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class NotNull(Expectation):
    """The column has a value."""

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        """See `Expectation`."""
        return rows[self.column].is_valid()

    def _claim(self) -> str:
        return f"{self.column} is not null"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf(Expectation):
    """The column's value is one of a few."""

    values: tuple[Value, ...]

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        """See `Expectation`."""
        column = rows[self.column]
        known = pc.is_in(column, value_set=pa.array(self.values, column.type))
        return pc.if_else(column.is_valid(), known, None)

    def _claim(self) -> str:
        return f"{self.column} is {' or '.join(map(str, self.values))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches(Expectation):
    """The whole value matches a regular expression that Python and RE2 read alike."""

    pattern: str

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        """See `Expectation`."""
        return pc.match_substring_regex(rows[self.column], self.pattern)

    def _claim(self) -> str:
        return f"{self.column} matches {self.pattern}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Between(Expectation):
    """A number lies between two others, both allowed; None is no limit."""

    minimum: float | None = None
    maximum: float | None = None

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        """See `Expectation`."""
        column = rows[self.column]
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        inside = column.is_valid()
        if self.minimum is not None:
            inside = pc.and_(inside, pc.greater_equal(column, pa.scalar(self.minimum)))
        if self.maximum is not None:
            inside = pc.and_(inside, pc.less_equal(column, pa.scalar(self.maximum)))
        return inside

    def _claim(self) -> str:
        if self.minimum is not None and self.minimum == self.maximum:
            return f"{self.column} is {self.minimum}"
        limits = [f"at least {self.minimum}"] if self.minimum is not None else []
        limits += [f"at most {self.maximum}"] if self.maximum is not None else []
        return f"{self.column} is {' and '.join(limits)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Below(Expectation):
    """A number is smaller than that in another column."""

    other: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values explain a failing row."""
        return (self.column, self.other)

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        """See `Expectation`."""
        return pc.less(rows[self.column], rows[self.other])

    def _claim(self) -> str:
        return f"{self.column} is less than {self.other}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unique(Expectation):
    """No other row of the whole table has the same key.

    Attributes:
        column: holds, per row, how many rows of the whole table have its key: rows of an update may repeat older ones.
        key: the columns that make the key.
    """

    key: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values explain a failing row."""
        return (*self.key, self.column)

    def holds(self, rows: pa.Table) -> pa.ChunkedArray:
        """See `Expectation`."""
        return pc.equal(rows[self.column], 1)

    def _claim(self) -> str:
        return f"{' + '.join(self.key)} is unique"
