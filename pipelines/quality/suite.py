"""What is expected of one table: which columns are read, what is measured on them, and the expectations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.portions import KEYS
from pipelines.lake.tables import Lake
from pipelines.quality.expectations import Expectation
from pipelines.quality.measures import copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What today's configuration asks of rows that it made; rows of other recipes and models keep their own limits.

    Attributes:
        max_tokens: the longest text that the encoder reads, special tokens included; None: not looked at.
        recipe_fps: the recipes whose chunks `max_tokens` is for; None: all.
        dimension: of the model's vectors; None: not looked at.
        model_fp: the model that `dimension` is for; None: all.
        unit_length: whether vectors have length 1.
    """

    max_tokens: int | None = None
    recipe_fps: Collection[str] | None = None
    dimension: int | None = None
    model_fp: str | None = None
    unit_length: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The expectations on one table.

    Attributes:
        table: its name.
        keys: the columns that name a failing row.
        columns: those that are read.
        measure: makes scalar columns of a batch, the keys among them.
        relate: adds columns that need other rows, given the lake, the measured rows, and whether they are all.
        expectations: of these limits, names unique.
    """

    table: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    measure: Callable[[pa.RecordBatch], dict[str, pa.Array]]
    relate: Callable[[Lake, pa.Table, bool], pa.Table]
    expectations: Callable[[Limits], tuple[Expectation, ...]]

    def measured(self, lake: Lake, batches: Iterable[pa.RecordBatch], *, whole: bool) -> pa.Table | None:
        """The rows as scalar columns, in little memory; None when there are none.

        Args:
            lake: where the other rows are.
            batches: the rows to look at, with `columns`.
            whole: whether they are all rows of the table.
        """
        parts = [pa.table(self.measure(batch)) for batch in batches if batch.num_rows]
        return self.relate(lake, pa.concat_tables(parts), whole) if parts else None


def with_copies(
    lake: Lake, table: str, rows: pa.Table, whole: bool, keys: tuple[str, ...], name: str = "copies"
) -> pa.Table:
    """With a column that counts the rows of the whole table that have a row's key.

    Of a part of the table, the rows with the same first key column are looked up.
    """
    return rows.append_column(name, copies(rows, keys, rows if whole else same_first_key(lake, table, rows, keys)))


def same_first_key(lake: Lake, table: str, rows: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    """The key columns of the table's rows that share the first key column with one of the given rows."""
    if KEYS.get(table) == keys[0]:
        return lake.lookup(table, rows[keys[0]], keys)
    return lake.read(table, keys, where=pc.field(keys[0]).isin(pc.unique(rows[keys[0]])))
