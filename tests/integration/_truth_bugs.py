"""Bugs to plant, so that it is known that the state machine can find such ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.index.protocol import Visible
from pipelines.lake import dead_letters, files
from pipelines.lake import manifest as manifest_table
from pipelines.lake.events import ANNOUNCED, Event, EventLog
from pipelines.sources import detect
from pipelines.update import rights
from pipelines.update.applying import found as apply
from pipelines.update.applying import manifest
from pipelines.update.looking import letters, observe
from pipelines.update.looking.look import Look
from pipelines.update.rights import Rights
from pipelines.update.upkeep import retention
from tests.integration._truth_bench import HR, STAFF
from tests.integration._truth_model import FEED, FILES, Announced
from tests.integration._truth_world import World


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


def _replay_loses_a_message(stack: ExitStack) -> None:
    """A message that is understood when it is replayed counts as understood, and is not kept."""
    append, replay = EventLog.append, letters.replay

    def without(self: EventLog, events: Sequence[Event], **options: Any) -> Any:
        return append(self, [one for one in events if one.origin.startswith(letters.ORIGIN)], **options)

    def losing(*args: Any, **options: Any) -> Any:
        with patch.object(EventLog, "append", without):
            return replay(*args, **options)

    stack.enter_context(patch.object(letters, "replay", losing))


def _replay_loses_a_letter(stack: ExitStack) -> None:
    """A document that is to be tried again counts as well, and nobody tries."""
    replay = letters.replay

    def losing(project: Any, chosen: Any, **options: Any) -> Any:
        rows = [row for row in chosen if row["stage"] == "parse"]
        dead_letters.write(project.lake, [{**row, "status": "resolved"} for row in rows], run_id="replay")
        report = replay(project, [row for row in chosen if row not in rows], **options)
        return replace(report, letters=len(chosen), announced=report.announced + len(rows))

    stack.enter_context(patch.object(letters, "replay", losing))


def _prunes_what_a_kept_snapshot_needs(stack: ExitStack) -> None:
    """Maintenance keeps the chunks of documents as they are now, and not as a kept snapshot has them."""

    def of_now(self: retention.Retained) -> pa.Table:
        found = manifest_table.active_documents(self.project.lake).select(["content_hash", "media_type"])
        return found.group_by(["content_hash", "media_type"]).aggregate([])

    stack.enter_context(patch.object(retention.Retained, "contents", property(of_now)))


def _prunes_a_version_that_is_kept(stack: ExitStack) -> None:
    """Maintenance removes the files of the manifest that only a kept snapshot needs."""
    well = files.remove_unneeded

    def more(folder: Any, **options: Any) -> Any:
        return well(folder, **{**options, "versions": ()})

    stack.enter_context(patch.object(files, "remove_unneeded", more))


def _rollback_gives_back_rights(stack: ExitStack) -> None:
    """Of an earlier snapshot, who may read a row is what the row says, whatever today's rules are."""
    well = Rights.visible

    def by_the_row(self: Rights, state: Any, principals: Any, tenant: str) -> Visible:
        if state["manifest_version"] == self._project.lake.version("documents"):
            return well(self, state, principals, tenant)
        return Visible(tenant, self.sets(principals, tenant))

    stack.enter_context(patch.object(Rights, "visible", by_the_row))


def _tenants_share_an_answer(stack: ExitStack) -> None:
    """Who asks is remembered without the tenant: the next tenant's people of the same names get the first one's."""
    well, first = Rights.visible, dict[tuple[str, ...], str]()

    def remembered(self: Rights, state: Any, principals: Any, tenant: str) -> Visible:
        return well(self, state, principals, first.setdefault(tuple(principals), tenant))

    stack.enter_context(patch.object(Rights, "visible", remembered))


def _tenant_stays(stack: ExitStack) -> None:
    """A source that is another tenant's keeps its documents where they were."""
    well = apply.labels_fingerprint

    def without(section: Any, **options: Any) -> str:
        return well(section.model_copy(update={"tenant": "default"}), **options)

    stack.enter_context(patch.object(apply, "labels_fingerprint", without))
    stack.enter_context(patch.object(rights, "labels_fingerprint", without))


def _thorough_look_is_not(stack: ExitStack) -> None:
    """A thorough look compares sizes and times, like any other."""

    def quick(**options: Any) -> Look:
        return Look(**{**options, "thorough": False})

    stack.enter_context(patch.object(observe, "Look", quick))


# --- what it takes to meet them: each of these passes with a library that is well ---

_ONE, _TWO = b"# A\n\nOne.\n", b"# B\n\nTwo.\n"
_LONGER, _BROKEN = b"Three.\n\nThree.\n", b"%PDF-1.7 broken"


def _two_hints(world: World) -> None:
    world.write("a.md", _ONE)
    world.write("b.md", _TWO)
    world.settle(scan=False)


def _older_after_newer(world: World) -> None:
    world.announce("a.md", 2, _TWO, HR)
    world.announce("a.md", 1, _ONE, HR)
    world.settle(scan=True)


def _other_rules(world: World) -> None:
    world.write("b.md", _ONE)
    world.settle(scan=True)
    world.rules(3, 0)
    world.settle(scan=True)


def _folder_that_cannot_be_read(world: World) -> None:
    world.write("b.md", _ONE)
    world.write("hr/c.md", _ONE)
    world.settle(scan=True)
    world.break_off("hr")
    world.update(scan=True)
    world.settle(scan=True)


def _dies_before_it_is_merged(world: World) -> None:
    for number in (6, 8, 10):
        world.announce("a.md", number, (_ONE, _TWO)[number % 4 // 2], HR)
        world.arrive([0])
        world.observe(FEED, "hints")
        world.update(scan=False, write=(number, "before"))
        world.settle(scan=False)


def _message_that_is_understood(world: World) -> None:
    world.reject(Announced("a.md", 1, _ONE, HR))
    world.update(scan=True)
    world.replay([0])
    world.settle(scan=True)


def _document_that_stays_broken(world: World) -> None:
    world.write("b.md", _BROKEN)
    world.update(scan=True)
    world.replay([0])
    world.settle(scan=True)


def _back_after_maintenance(world: World) -> None:
    for content in (_ONE, _TWO, _LONGER):
        world.write("b.md", content)
        world.settle(scan=True)
    world.maintain()
    world.rollback(0)


def _back_before_other_rules(world: World) -> None:
    _other_rules(world)
    world.rollback(None)


def _equal_names(world: World) -> None:
    world.write("a.md", _ONE)
    world.announce("a.md", 1, _ONE, STAFF)
    world.settle(scan=True)


def _other_tenant(world: World) -> None:
    world.write("b.md", _ONE)
    world.settle(scan=True)
    world.tenant(FILES, "beta")
    world.settle(scan=True)


def _replaced_unseen(world: World) -> None:
    world.write("b.md", _ONE)
    world.settle(scan=True)
    world.write_unseen("b.md", (_ONE, _TWO))
    world.settle(scan=True, thorough=True)


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug, and a play of few moves in which it is met."""

    plant: Callable[[ExitStack], None]
    play: Callable[[World], None]


BUGS: dict[str, Bug] = {
    "skips a hint": Bug(_skips_a_hint, _two_hints),
    "last arrival wins": Bug(_last_arrival_wins, _older_after_newer),
    "drops a relabel": Bug(_drops_a_relabel, _other_rules),
    "deletes what was not read": Bug(_deletes_what_was_not_read, _folder_that_cannot_be_read),
    "moves on before the manifest": Bug(_moves_on_before_the_manifest, _dies_before_it_is_merged),
    "loses a message that is replayed": Bug(_replay_loses_a_message, _message_that_is_understood),
    "loses a letter that is replayed": Bug(_replay_loses_a_letter, _document_that_stays_broken),
    "prunes what a kept snapshot needs": Bug(_prunes_what_a_kept_snapshot_needs, _back_after_maintenance),
    "prunes a version that is kept": Bug(_prunes_a_version_that_is_kept, _back_after_maintenance),
    "gives back rights by a rollback": Bug(_rollback_gives_back_rights, _back_before_other_rules),
    "answers one tenant with another's rows": Bug(_tenants_share_an_answer, _equal_names),
    "leaves documents with their former tenant": Bug(_tenant_stays, _other_tenant),
    "looks quickly when asked to be thorough": Bug(_thorough_look_is_not, _replaced_unseen),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """That bug is in the library while the block runs."""
    with ExitStack() as stack:
        BUGS[name].plant(stack)
        yield
