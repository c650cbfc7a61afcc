"""What an update reads of one source: the events that wait, and its documents, narrow at first and whole by parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import manifest
from pipelines.lake.events import FOUND, Event, EventLog, as_table
from pipelines.lake.tables import Lake
from pipelines.update.looking.known import COMPARED

Row = dict[str, Any]

_NARROW = ["sequence", "uri", "type", "content_hash"]


class WaitingEvents:
    """What was found of one source and not applied yet: narrow rows of all of it, whole ones of a part at a time."""

    def __init__(self, log: EventLog, source: str, after: int, also: Sequence[Event]) -> None:
        self._log = log
        self.narrow = log.after(source, after, FOUND, columns=_NARROW)
        self._also = as_table(also, after=pc.max(self.narrow["sequence"]).as_py() or 0)
        if also:
            self.narrow = pa.concat_tables([self.narrow, self._also.select(_NARROW)])

    def whole(self, some: pa.Table) -> pa.Table:
        """The same events with every column."""
        sequences = some["sequence"].combine_chunks()
        also = self._also.filter(pc.is_in(self._also["sequence"], value_set=sequences))
        logged = sequences.filter(pc.invert(pc.is_in(sequences, value_set=also["sequence"].combine_chunks())))
        return pa.concat_tables([self._log.numbered(logged), also])


class StoredRows:
    """The manifest's rows of one source."""

    def __init__(self, lake: Lake, source: str) -> None:
        self._lake, self._source = lake, source

    @cached_property
    def rows(self) -> pa.Table:
        """All of them, with the columns that a comparison takes; read when they are asked for."""
        mine = pc.field("source") == self._source
        return self._lake.read(manifest.TABLE, [*COMPARED, "source", "deleted_at"], where=mine)

    def whole(self, doc_ids: Sequence[str]) -> list[Row]:
        """The whole rows of some documents, as far as they are known."""
        found: list[Row] = self._lake.lookup(manifest.TABLE, doc_ids).to_pylist()
        return found
