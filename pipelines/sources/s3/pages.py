"""Pages of a bucket's listing as columns: which objects are documents, and what is a problem. Nothing is read here.

Whole pages are worked on with Arrow, without a Python object for each key: a bucket may hold millions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.schemas import TIMESTAMP
from pipelines.sources.addresses.globs import PathFilter
from pipelines.sources.addresses.uris import encode_key
from pipelines.sources.base import ITEMS, Listing, ListingBuilder, Problem, Progress

EVERYTHING = ("**/*",)
_BATCH_ROWS = 32_768
# What `encode_key` would change, for a whole page at once.
_ODD = "[%\x00-\x1f\x7f-\u009f\u2028\u2029]|(?:^|/)\\.{0,2}(?:/|$)"
_HIDDEN = r"(?:^|/)\."


class Selection(Protocol):
    """What of a bucket is a source's: the keys of its section that matter here."""

    @property
    def prefix(self) -> str:
        """Empty, or ends with a slash."""
        ...

    @property
    def include(self) -> tuple[str, ...]:
        """Patterns over uris."""
        ...

    @property
    def exclude(self) -> tuple[str, ...]:
        """Patterns over uris."""
        ...

    @property
    def max_bytes(self) -> int:
        """Of one document."""
        ...


class Pages:
    """Collects pages into a listing. An object is a mapping with Key, Size, ETag, LastModified, perhaps VersionId."""

    def __init__(self, section: Selection, selects: PathFilter, progress: Progress | None = None) -> None:
        self._section = section
        self._selects = selects
        self._found = ListingBuilder(progress)
        self._progress = progress
        self._batches: list[pa.RecordBatch] = []
        self._waiting: list[Mapping[str, Any]] = []

    def add(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """One more page."""
        self._waiting.extend(objects)
        if len(self._waiting) >= _BATCH_ROWS:
            self._flush()
        if self._progress is not None:
            self._progress(self._found.items + len(self._waiting), 0)

    def problem(self, problem: Problem) -> None:
        """One more object that could not be looked at."""
        self._found.problem(problem)

    def listing(self) -> Listing:
        """All that was added."""
        self._flush()
        return self._found.build(pa.Table.from_batches(self._batches, schema=ITEMS))

    def _flush(self) -> None:
        objects, self._waiting = self._waiting, []
        if not objects:
            return
        uris = self._uris([one["Key"] for one in objects])
        sizes = pa.array([one["Size"] for one in objects], pa.int64())
        etags = pa.array([one.get("ETag") or None for one in objects], pa.string())
        times = pa.array([one["LastModified"] for one in objects], TIMESTAMP)
        versions = pa.array([version_label(one) for one in objects], pa.string())
        keep, self_named = self._selected(uris), pc.ends_with(uris, "/")
        markers = pc.or_(pc.equal(uris, ""), pc.and_(self_named, pc.equal(sizes, 0)))
        keep = pc.and_not(keep, markers)
        for wrong, told in (
            (pc.and_(keep, self_named), _tell_slash),
            (pc.and_(keep, pc.greater(sizes, self._section.max_bytes)), self._tell_size),
        ):
            if pc.any(wrong).as_py():
                for uri, size in zip(uris.filter(wrong).to_pylist(), sizes.filter(wrong).to_pylist(), strict=True):
                    self._found.problem(told(uri, size))
                keep = pc.and_not(keep, wrong)
        columns = [
            uris,
            sizes,
            etag_of(etags, versions),
            pc.floor_temporal(times, unit="second").cast(TIMESTAMP),  # a HEAD and a GET tell whole seconds
            pa.nulls(len(uris), pa.list_(pa.string())),
            pa.nulls(len(uris), pa.string()),
        ]
        batch = pa.record_batch(columns, schema=ITEMS)
        if not pc.all(keep).as_py():
            batch = batch.filter(keep)
        self._batches.append(batch)
        self._found.items += len(batch)

    def _uris(self, keys: Sequence[str]) -> pa.Array:
        """Of each key what `uri_of` gives."""
        prefix = self._section.prefix
        whole = pa.array(keys, pa.string())
        below = pc.utf8_slice_codeunits(whole, len(prefix)) if prefix else whole
        odd = pc.match_substring_regex(below, _ODD)
        if not pc.any(odd).as_py():
            return below
        escaped = pa.array([encode_key(key) for key in below.filter(odd).to_pylist()], pa.string())
        return pc.replace_with_mask(below, odd, escaped)

    def _selected(self, uris: pa.Array) -> pa.Array:
        if self._section.include == EVERYTHING and not self._section.exclude:
            return pc.invert(pc.match_substring_regex(uris, _HIDDEN))
        selects = self._selects.selects
        return pa.array([selects(uri) for uri in uris.to_pylist()], pa.bool_())

    def _tell_size(self, uri: str, size: int) -> Problem:
        return Problem(uri, "TooLarge", too_large(uri, size, self._section.max_bytes))


def version_label(found: Mapping[str, Any]) -> str | None:
    """The version of an object where its bucket keeps versions; "null" is S3's word for none."""
    version = found.get("VersionId")
    return None if version in (None, "", "null") else str(version)


def etag_of(etags: pa.Array, versions: pa.Array) -> pa.Array:
    """S3's ETags without quotes, with the version where one is told."""
    etags = pc.utf8_trim(etags, characters='"')
    if versions.null_count == len(versions):
        return etags
    return pc.coalesce(pc.binary_join_element_wise(etags, versions, ";version="), etags)


def too_large(uri: str, size: int, max_bytes: int) -> str:
    """What to tell about an object above the limit."""
    return (
        f"{uri} is too large: {size:,} bytes, and `max_bytes` of its source allows {max_bytes:,}; raise `max_bytes`, "
        "or name the object in `exclude`"
    )


def _tell_slash(uri: str, size: int) -> Problem:
    text = f"the key of {uri} ends with a slash like a folder's, and it holds {size:,} bytes; it was not read. Give "
    return Problem(uri, "NameOfFolder", text + "the object another key, or name it in `exclude`")
