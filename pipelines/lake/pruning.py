"""Reading what a few keys, or a portion of them, need of a table: the files and row groups whose statistics allow them.

A table's log says the smallest and the largest key of each file, and a file's footer says it of each row group. Where
neither does, everything is read; so this can be slow, and never wrong. Of files with few rows, which updates leave in
no order, the keys themselves are read once: without that, each look-up read everything that was added since the table
was last put in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FileSystem, LocalFileSystem

from pipelines.lake.portions import KeySet, Wanted

_BATCH_ROWS = 8_192
_FOOTERS = 256  # kept of a table; of a file with 100 row groups one takes about 100 kB
_FEW_ROWS = 4_096  # of a file whose keys are kept
_FEW_KEYS = 512  # that are looked up by them; a build asks for more, and would keep the keys of all its files

Bounds = list[tuple[str, str] | None]
"""The smallest and the largest key of each row group of a file; None where the footer does not say."""


@dataclass(slots=True)
class _File:
    """What is known of one file. `keys`: of each row group, once they were asked for."""

    fragment: ds.ParquetFileFragment
    bounds: Bounds | None
    keys: list[frozenset[str | None]] | None = None


class Footers:
    """What the footers of a table's files say, read once: a file of a Delta table is never written again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[tuple[str, str], _File] = {}

    def of(self, path: str, key: str, make: Callable[[], ds.ParquetFileFragment]) -> _File:
        """A file, and the smallest and the largest key of each of its row groups; None where it has no such column."""
        with self._lock:
            known = self._read.pop((path, key), None)
        if known is None:
            fragment = make()
            known = _File(fragment, _bounds(fragment, key))
        with self._lock:
            self._read[path, key] = known  # the one that was asked for last goes last
            if len(self._read) > _FOOTERS:
                del self._read[next(iter(self._read))]
        return known


def dataset(
    facts: pa.Table,
    filesystem: FileSystem,
    schema: pa.Schema,
    *,
    key: str = "",
    wanted: Wanted | None = None,
    footers: Footers | None = None,
) -> ds.FileSystemDataset:
    """The files of a table, or those parts of them that can hold what is wanted.

    Args:
        facts: path and statistics of every file, as the log has them.
        filesystem: in which the paths are.
        schema: of the rows.
        key: the column that `wanted` is about.
        wanted: None: everything.
        footers: what is known of this table's files already, and is kept for the next time.
    """
    ahead = ds.ParquetFragmentScanOptions(pre_buffer=not _is_local(filesystem))
    form = ds.ParquetFileFormat(default_fragment_scan_options=ahead)
    footers = footers or Footers()
    fragments = []
    for path in _paths(facts, key, wanted):
        make = partial(form.make_fragment, path, filesystem=filesystem)
        found = make() if wanted is None else _part(footers.of(path, key, make), key, wanted)
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


def _bounds(fragment: ds.ParquetFileFragment, key: str) -> Bounds | None:
    footer = fragment.metadata
    column = next((at for at in range(footer.num_columns) if footer.schema.column(at).path == key), None)
    if column is None:
        return None
    told = (footer.row_group(number).column(column).statistics for number in range(footer.num_row_groups))
    return [(_text(one.min), _text(one.max)) if one is not None and one.has_min_max else None for one in told]


def _part(file: _File, key: str, wanted: Wanted) -> ds.ParquetFileFragment | None:
    """The row groups of a file that can hold what is wanted; None for none."""
    if file.bounds is None:
        return file.fragment
    groups = [number for number, known in enumerate(file.bounds) if known is None or wanted.touches(*known)]
    rows = file.fragment.metadata.num_rows
    if groups and rows <= _FEW_ROWS and isinstance(wanted, KeySet) and len(wanted) <= _FEW_KEYS:
        if file.keys is None:
            file.keys = _keys(file.fragment, key)
        groups = [number for number in groups if wanted.meets(file.keys[number])]
    if not groups:
        return None
    return file.fragment if len(groups) == len(file.bounds) else file.fragment.subset(row_group_ids=groups)


def _keys(fragment: ds.ParquetFileFragment, key: str) -> list[frozenset[str | None]]:
    column = fragment.to_table(columns=[key], use_threads=False)[key].to_pylist()
    counts = [fragment.metadata.row_group(number).num_rows for number in range(fragment.metadata.num_row_groups)]
    return [frozenset(column[end - rows : end]) for rows, end in zip(counts, accumulate(counts), strict=True)]


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def rows(
    source: pa.Table | ds.FileSystemDataset,
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
    if isinstance(source, pa.Table):
        found = iter([source])
    else:
        columns = _needed(source.schema, names, where, key, wanted)
        batches = scanned(source, columns, batch_rows=batch_rows)
        found = (pa.Table.from_batches([batch]) for batch in batches)
    for part in found:
        meant = taken(part, names, where=where, key=key, wanted=wanted)
        if len(meant):
            yield from meant.to_batches(max_chunksize=batch_rows)


def scanned(
    source: ds.FileSystemDataset, columns: Sequence[str], *, where: ds.Expression | None = None, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of files, in their order.

    Local ones are read when they are asked for: ahead of a reader that is slower than the disk, hundreds of megabytes
    wait, and not even time is won. Looking up 33,000 of 300,000 vectors took 700 MB and 2.8 s; so, 110 MB and 1.4 s.
    """
    if _is_local(source.filesystem):
        options = {"batch_readahead": 0, "fragment_readahead": 0, "use_threads": False}
    else:
        options = {"batch_readahead": 2, "fragment_readahead": 1}
    yield from source.to_batches(columns=list(columns), filter=where, batch_size=batch_rows, **options)


def _is_local(filesystem: FileSystem) -> bool:
    return isinstance(getattr(filesystem, "base_fs", filesystem), LocalFileSystem)


def taken(
    source: pa.Table,
    names: Sequence[str],
    *,
    where: ds.Expression | None = None,
    key: str = "",
    wanted: Wanted | None = None,
) -> pa.Table:
    """Those columns of the rows that are meant."""
    found = source.select(_needed(source.schema, names, where, key, wanted))
    if wanted is not None:
        found = found.filter(wanted.among(found[key]))
    if where is not None:
        found = found.filter(where)
    return found.select(list(names))


def _needed(
    schema: pa.Schema, names: Sequence[str], where: ds.Expression | None, key: str, wanted: Wanted | None
) -> list[str]:
    """The columns that are asked for, and those that decide on rows."""
    columns = list(names) + ([key] if wanted is not None and key not in names else [])
    if where is None or _decides(where, pa.schema([schema.field(name) for name in columns])):
        return columns
    return list(schema.names)


def _decides(where: ds.Expression, schema: pa.Schema) -> bool:
    """Whether these columns are enough to say which rows are meant."""
    try:
        schema.empty_table().filter(where)
    except pa.ArrowInvalid:
        return False
    return True
