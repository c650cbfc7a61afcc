"""The two (or three) collections between which an index alternates, and which of them may be written next.

While one of them is kept for an operator to look at, there is one more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

_LETTERS = "abcd"
KEPT = "diverged"  # status of a snapshot whose slot nothing else may use until an operator has decided


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


def every_slot(index: str) -> tuple[str, ...]:
    """Every name that a slot of an index can have, those included that are used for a while only."""
    return slot_names(index, len(_LETTERS))


def idle_slot(index: str, live: str | None, *, slots: int, history: Iterable[_Held] = ()) -> str:
    """The slot to build the next candidate in: never the live one, and with three slots not the one to roll back to.

    Args:
        index: name of the index.
        live: what its alias points at, if anything; need not exist any more.
        slots: how many there are.
        history: the index's snapshots, in any order. A slot whose latest snapshot never went live, or that has none,
            is taken first; else the one whose snapshot was retired longest ago. One that holds a snapshot that is kept
            for an operator is not taken: another is used in its place for as long.
    """
    latest = _latest(history)
    kept = kept_slots(latest.values()) - {live}

    def worth(slot: str) -> int:
        held = latest.get(slot)
        return held.sequence if held is not None and held.status in ("live", "retired") else 0

    usable = (slot for slot in slot_names(index, slots + len(kept)) if slot != live and slot not in kept)
    return min(usable, key=lambda slot: (worth(slot), slot))


def kept_slots(history: Iterable[_Held]) -> set[str]:
    """The slots whose latest snapshot is kept for an operator."""
    return {slot for slot, held in _latest(history).items() if held.status == KEPT}


def _latest(history: Iterable[_Held]) -> dict[str, _Held]:
    latest: dict[str, _Held] = {}
    for snapshot in history:
        held = latest.get(snapshot.collection)
        if held is None or snapshot.sequence > held.sequence:
            latest[snapshot.collection] = snapshot
    return latest
