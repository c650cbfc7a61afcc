"""Bugs to plant, so that it is known that the state machine can find such ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.events import ANNOUNCED, EventLog
from pipelines.sources import detect
from pipelines.update.applying import found as apply
from pipelines.update.applying import manifest
from pipelines.update.looking import observe


def _skips_a_hint(stack: ExitStack) -> None:
    """Of several announcements the newest is not looked at."""
    after = EventLog.after

    def fewer(self: EventLog, source: str, sequence: int, types: Any, **options: Any) -> pa.Table:
        found = after(self, source, sequence, types, **options)
        return found.slice(0, len(found) - 1) if types == ANNOUNCED and len(found) > 1 else found

    def consumed(*args: Any, **values: Any) -> Any:
        if "observed_sequence" in values:
            values["observed_sequence"] += 1
        return well(*args, **values)

    well = observe.following.went_well
    stack.enter_context(patch.object(EventLog, "after", fewer))
    stack.enter_context(patch.object(observe.following, "went_well", consumed))


def _last_arrival_wins(stack: ExitStack) -> None:
    """Of a document's events the one that came last counts, not the one with the highest version."""

    def state(self: EventLog, source: str, *, until: Any = None, uris: Any = None) -> pa.Table:
        events = self._lake.read("change_events", where=pc.field("source") == source).sort_by("sequence")
        events = events.filter(pc.is_in(events["type"], value_set=pa.array(["upsert", "delete"])))
        if uris is not None:
            events = events.filter(pc.is_in(events["uri"], value_set=pa.array(list(uris), pa.string())))
        last = {uri: row for row, uri in enumerate(events["uri"].to_pylist())}
        return events.take(pa.array(sorted(last.values()), pa.int64())).sort_by("uri")

    stack.enter_context(patch.object(EventLog, "state", state))


def _drops_a_relabel(stack: ExitStack) -> None:
    """Changed access rules reach only documents that changed themselves."""
    stack.enter_context(patch.object(apply, "_relabel", lambda *_: None))


def _deletes_what_was_not_read(stack: ExitStack) -> None:
    """What lies below a folder that could not be read counts as gone."""

    def unprotected(absent: pa.ChunkedArray, _listing: Any) -> Any:
        return np.zeros(len(absent), np.bool_)

    stack.enter_context(patch.object(detect, "_protected", unprotected))


def _moves_on_before_the_manifest(stack: ExitStack) -> None:
    """What was found counts as applied before the manifest says so: a kill between the two loses it."""
    from pipelines.update import staging

    read = staging.read_changes

    def too_early(folder: Any, **options: Any) -> pa.Table:
        followed, _ = manifest.read_followed(folder)
        found = read(folder, **options)
        for one in followed:
            apply.progress.change(_home(folder), one.source, applied_sequence=one.sequence)
        return found

    stack.enter_context(patch.object(staging, "read_changes", too_early))


def _home(staging_folder: Any) -> Any:
    from pipelines.home import Home

    return Home(staging_folder.parent)


BUGS: dict[str, Callable[[ExitStack], None]] = {
    "skips a hint": _skips_a_hint,
    "last arrival wins": _last_arrival_wins,
    "drops a relabel": _drops_a_relabel,
    "deletes what was not read": _deletes_what_was_not_read,
    "moves on before the manifest": _moves_on_before_the_manifest,
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """That bug is in the library while the block runs."""
    with ExitStack() as stack:
        BUGS[name](stack)
        yield
