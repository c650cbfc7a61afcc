"""The source `records`: a file of rows, each a document of our own media type. `record_files` reads the formats.

A row's etag is the hash of its content, so that an unchanged row is known without reading anything else.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import ConfigError, SourceError
from pipelines.identity import content_hash
from pipelines.sources.addresses.uris import encode_uri
from pipelines.sources.base import (
    RECORD_MEDIA_TYPE,
    Check,
    Fetched,
    FetchFailure,
    Hint,
    Listing,
    ListingBuilder,
    Problem,
    Progress,
    SourceItem,
)
from pipelines.sources.hinted import hinted_part
from pipelines.sources.records.files import READERS, BadRow, Row, UnreadableFile
from pipelines.sources.section import Section, SourceSection

_ATTEMPTS = 3
_CHECKED_ROWS = 100
_MAX_ID_BYTES = 1_024  # ids are matched with access rules and stored in the index


class RecordFields(Section):
    """Which field of a record is what; `id` and `text` are required, the others may be absent."""

    id: str = "id"
    title: str | None = None
    text: str = "text"
    author: str | None = None
    created: str | None = None
    language: str | None = None
    tags: str | None = None


class RecordsSource(SourceSection):
    """JSON lines, CSV or Parquet: one document a row."""

    kind: Literal["records"]
    path: Path
    fields: RecordFields = RecordFields()

    def located(self, folder: Path) -> Self:
        """With `path` taken from the configuration file's folder."""
        return self.model_copy(update={"path": folder / self.path.expanduser()})


class _BadRecord(Exception):
    """A row that is no document. `uri` is empty when it has no usable id."""

    def __init__(self, error_class: str, reason: str, uri: str = "") -> None:
        super().__init__(reason)
        self.error_class = error_class
        self.uri = uri


@dataclass(frozen=True, slots=True)
class _Record:
    uri: str
    content: bytes
    etag: str


class RecordFile:
    """A file of records as a source."""

    def __init__(self, config: RecordsSource) -> None:
        self._config = config
        reader = READERS.get(config.path.suffix.lower())
        if reader is None:
            raise ConfigError(
                f"source {config.name!r}: `path` is {config.path}, and records are read from files named "
                f"{', '.join(READERS)}; rename or convert it, or use `kind: filesystem` for a folder of documents"
            )
        self._reader = reader
        named = config.fields.model_dump().values()
        self._columns = tuple(dict.fromkeys(name for name in named if name is not None))

    def list(self, *, progress: Progress | None = None) -> Listing:
        """Every record with the hash of its content; the first of several with one id counts.

        A row without a readable id could be any document, so nothing is deleted while there is one.

        Raises:
            SourceError: the file is missing, cannot be read, keeps changing, lacks a column, or has no usable row.
        """
        for _ in range(_ATTEMPTS):
            before = self._state()
            listing = self._list_once(progress)
            if self._state() == before:
                return listing
        raise SourceError(
            f"source {self._config.name!r}: {self._config.path} changed while it was listed, {_ATTEMPTS} times in a "
            "row; no document was changed, run the update again (write a new file and rename it over the old one)"
        )

    def look(self, hints: Sequence[Hint]) -> Listing:
        """The records that the hints name; the whole file is read for it, as rows have no fixed place.

        Raises:
            SourceError: as for `list`.
        """
        return hinted_part(self.list(), hints)

    def check(self) -> Iterator[Check]:
        """Whether the file can be read, and whether the first rows in it are documents."""
        try:
            rows = list(islice(self._records(), _CHECKED_ROWS))
        except SourceError as error:
            yield Check("read", False, str(error))
            return
        good = sum(not isinstance(row, Problem) for row in rows)
        yield Check("read", True, f"{self._config.path} can be read")
        first = next((row for row in rows if isinstance(row, Problem)), None)
        if first is not None:
            yield Check("rows", False, f"{len(rows) - good} of the first {len(rows)} rows: {first.message}")
        else:
            yield Check("rows", True, f"the first {good} rows are documents" if good else "the file has no rows yet")

    def fetch(self, uris: Iterable[str]) -> Iterator[Fetched | FetchFailure]:
        """The records of these ids in the order of the file, in one pass over it: ask for all of them at once."""
        wanted = set(uris)
        for found in self._records():
            if not wanted:
                return
            if isinstance(found, tuple) and found[1].uri in wanted:
                record = found[1]
                wanted.discard(record.uri)
                yield Fetched(record.uri, record.content, len(record.content), record.etag, None, RECORD_MEDIA_TYPE)
        for uri in sorted(wanted):
            text = f"the record {uri} is gone from {self._config.path} since it was listed; the next update sees it"
            yield FetchFailure(uri, "Gone", text, transient=True)

    def _list_once(self, progress: Progress | None) -> Listing:
        found = ListingBuilder(progress)
        places: list[str] = []
        for answer in self._records():
            if isinstance(answer, Problem):
                found.problem(answer)
                continue
            place, record = answer
            found.add(SourceItem(record.uri, len(record.content), etag=record.etag))
            places.append(place)
        if found.problems and not found.items:
            first = found.build().problems[0].message
            raise SourceError(
                f"source {self._config.name!r}: no row of {self._config.path} is a document; the first problem of "
                f"{found.problems:,}: {first}. Correct the file, or this source's key `fields`"
            )
        return found.build(self._first_of_each_id(found.table(), places, found))

    def _first_of_each_id(self, items: pa.Table, places: Sequence[str], found: ListingBuilder) -> pa.Table:
        """The items without those whose id came before; each of these is a problem that names both places."""
        uris = items["uri"]
        if pc.count_distinct(uris).as_py() == len(uris):
            return items
        codes = pc.dictionary_encode(uris.combine_chunks()).indices.to_numpy(zero_copy_only=False)
        _, firsts, inverse = np.unique(codes, return_index=True, return_inverse=True)
        first = firsts[inverse]
        is_first = first == np.arange(len(codes))
        for row in np.flatnonzero(~is_first):
            uri, place, earlier = uris[int(row)].as_py(), places[int(row)], places[int(first[row])]
            text = f"{self._config.path}: {place} and {earlier} have the same id {uri!r}, and {earlier} is used; "
            found.problem(Problem(uri, "DuplicateId", text + "give each its own id, or remove one"))
        return items.filter(pa.array(is_first))

    def _records(self) -> Iterator[tuple[str, _Record] | Problem]:
        config = self._config
        self._state()
        try:
            for row in self._reader(config.path, self._columns, config.max_bytes):
                if isinstance(row, BadRow):
                    yield self._problem(row.place, _BadRecord("BadRecord", row.reason))
                    continue
                try:
                    yield row.place, _record(row, config.fields, config.max_bytes)
                except _BadRecord as error:
                    yield self._problem(row.place, error)
        except UnreadableFile as error:
            raise SourceError(f"source {config.name!r}: {config.path}: {error}. Nothing was changed") from error
        except OSError as error:
            raise self._unreadable(error) from error

    def _problem(self, place: str, error: _BadRecord) -> Problem:
        text = f"{self._config.path}: {place}: {error}; correct the row"
        if not error.uri:
            text += ". Until then no document of this source is deleted, since the row may be any of them"
        return Problem(error.uri, error.error_class, text, subtree=not error.uri)

    def _state(self) -> tuple[int, int, int, int]:
        path = self._config.path
        try:
            found = path.stat()
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(
                f"source {self._config.name!r}: `path` is {path}, which is no ordinary file; name one file of "
                "records, or use `kind: filesystem` for a folder"
            )
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _unreadable(self, error: OSError) -> SourceError:
        missing = isinstance(error, FileNotFoundError)
        what = "does not exist" if missing else f"cannot be read: {error.strerror or type(error).__name__}"
        return SourceError(
            f"source {self._config.name!r}: the file {self._config.path} {what}; put it there, allow reading it, or "
            "correct the key `path` of this source. No document was changed or deleted"
        )


def _record(row: Row, fields: RecordFields, max_bytes: int) -> _Record:
    uri = _uri(row.values.get(fields.id), fields.id)
    text = row.values.get(fields.text)
    if text is None or (isinstance(text, str) and not text.strip()):
        raise _BadRecord("MissingText", f"the record {uri} has no text in {fields.text!r}", uri)
    if not isinstance(text, str):
        reason = f"the record {uri} has a {type(text).__name__} in {fields.text!r}, and text is needed"
        raise _BadRecord("BadRecord", reason, uri)
    title = _plain(row.values.get(fields.title)) if fields.title else None
    metadata: dict[str, object] = {}
    for key, name in (("author", fields.author), ("created", fields.created), ("language", fields.language)):
        value = _plain(row.values.get(name)) if name else None
        if value:
            metadata[key] = value
    tags = _tags(row.values.get(fields.tags)) if fields.tags else []
    if tags:
        metadata["tags"] = tags
    content = _canonical({"title": title, "text": text, "metadata": metadata})
    if len(content) > max_bytes:
        reason = (
            f"the record {uri} is too large: {len(content):,} bytes, and `max_bytes` of its source allows {max_bytes:,}"
        )
        raise _BadRecord("TooLarge", reason, uri)
    return _Record(uri, content, content_hash(content))


def _uri(value: object, field: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _BadRecord("MissingId", f"no id in {field!r}")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _BadRecord(
            "BadRecord", f"the id in {field!r} is a {type(value).__name__}; text or a whole number is needed"
        )
    try:
        length = len(str(value).encode("utf-8"))
    except ValueError:  # half of a surrogate pair, or a number with thousands of digits
        raise _BadRecord("BadRecord", f"the id in {field!r} is no valid text") from None
    if length > _MAX_ID_BYTES:
        raise _BadRecord("BadRecord", f"the id in {field!r} has {length:,} bytes, and {_MAX_ID_BYTES:,} are allowed")
    return encode_uri(str(value))


def _plain(value: object) -> str | None:
    """Text of a field that is one value; None for nothing or for something nested."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str):
        return value.strip() or None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _tags(value: object) -> list[str]:
    """A list of tags, or a text with commas or semicolons between them."""
    parts = value.replace(";", ",").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        return []
    return [text for text in map(_plain, parts) if text]


def _canonical(record: Mapping[str, object]) -> bytes:
    """One byte string for one record: sorted keys, no spaces, UTF-8; halves of surrogate pairs become U+FFFD."""
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode("utf-8")
