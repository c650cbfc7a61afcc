"""The two (or three) collections between which an index alternates, and which of them may be written next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

_LETTERS = "abc"


class _Held(Protocol):
    """What is needed of a snapshot's record."""

    @property
    def collection(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def status(self) -> str: ...


def slot_names(index: str, slots: int) -> tuple[str, ...]:
    """The physical collections of an index: `{index}__a`, `{index}__b`, ... The alias is the index's own name."""
    return tuple(f"{index}__{letter}" for letter in _LETTERS[:slots])


def idle_slot(index: str, live: str | None, *, slots: int, history: Iterable[_Held] = ()) -> str:
    """The slot to build the next candidate in: never the live one, and with three slots not the one to roll back to.

    Args:
        index: name of the index.
        live: what its alias points at, if anything; need not exist any more.
        slots: how many there are.
        history: the index's snapshots, in any order. A slot whose latest snapshot never went live, or that has none,
            is taken first; else the one whose snapshot was retired longest ago.
    """
    latest: dict[str, _Held] = {}
    for snapshot in history:
        held = latest.get(snapshot.collection)
        if held is None or snapshot.sequence > held.sequence:
            latest[snapshot.collection] = snapshot

    def worth(slot: str) -> int:
        held = latest.get(slot)
        return held.sequence if held is not None and held.status in ("live", "retired") else 0

    return min((slot for slot in slot_names(index, slots) if slot != live), key=lambda slot: (worth(slot), slot))
