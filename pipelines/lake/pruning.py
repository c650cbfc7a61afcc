"""Reading what a few keys, or a portion of them, need of a table: the files and row groups whose statistics allow them.

A table's log says the smallest and the largest key of each file, and a file's footer says it of each row group. Where
neither does, everything is read; so this can be slow, and never wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FileSystem

from pipelines.lake.portions import Wanted

_BATCH_ROWS = 8_192


def dataset(
    facts: pa.Table, filesystem: FileSystem, schema: pa.Schema, *, key: str = "", wanted: Wanted | None = None
) -> ds.FileSystemDataset:
    """The files of a table, or those parts of them that can hold what is wanted.

    Args:
        facts: path and statistics of every file, as the log has them.
        filesystem: in which the paths are.
        schema: of the rows.
        key: the column that `wanted` is about.
        wanted: None: everything.
    """
    form = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=True))
    fragments = []
    for path in _paths(facts, key, wanted):
        fragment = form.make_fragment(path, filesystem=filesystem)
        found = fragment if wanted is None else _part(fragment, key, wanted)
        if found is not None:
            fragments.append(found)
    return ds.FileSystemDataset(fragments, schema, form, filesystem)


def _paths(facts: pa.Table, key: str, wanted: Wanted | None) -> list[str]:
    paths: list[str] = facts["path"].to_pylist()
    bounds = (f"min.{key}", f"max.{key}")
    if wanted is None or not set(bounds) <= set(facts.schema.names):
        return paths
    smallest, largest = (facts[name].cast(pa.string()).to_pylist() for name in bounds)
    return [p for p, low, high in zip(paths, smallest, largest, strict=True) if wanted.touches(low, high)]


def _part(fragment: ds.ParquetFileFragment, key: str, wanted: Wanted) -> ds.ParquetFileFragment | None:
    """The row groups of a file that can hold what is wanted; None for none."""
    footer = fragment.metadata
    column = next((at for at in range(footer.num_columns) if footer.schema.column(at).path == key), None)
    if column is None:
        return fragment
    groups = []
    for number in range(footer.num_row_groups):
        told = footer.row_group(number).column(column).statistics
        known = told is not None and told.has_min_max
        if wanted.touches(_text(told.min), _text(told.max)) if known else True:
            groups.append(number)
    if not groups:
        return None
    return fragment if len(groups) == footer.num_row_groups else fragment.subset(row_group_ids=groups)


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def rows(
    source: ds.Dataset,
    names: Sequence[str],
    *,
    where: ds.Expression | None = None,
    key: str = "",
    wanted: Wanted | None = None,
    batch_rows: int = _BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Those columns of the rows that are meant, a batch at a time, filtered in memory.

    Scans cannot filter rows that a merge wrote: their strings read back as views, which few kernels take.
    """
    columns = list(names) + ([key] if wanted is not None and key not in names else [])
    if where is not None and not _decides(where, pa.schema([source.schema.field(name) for name in columns])):
        columns = list(source.schema.names)
    for batch in source.to_batches(columns, batch_size=batch_rows, batch_readahead=2, fragment_readahead=1):
        meant = batch if wanted is None else batch.filter(wanted.among(batch[key]))
        table = pa.Table.from_batches([meant])
        if where is not None:
            table = table.filter(where)
        if len(table):
            yield from table.select(list(names)).to_batches()


def _decides(where: ds.Expression, schema: pa.Schema) -> bool:
    """Whether these columns are enough to say which rows are meant."""
    try:
        schema.empty_table().filter(where)
    except pa.ArrowInvalid:
        return False
    return True
