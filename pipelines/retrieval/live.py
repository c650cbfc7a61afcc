"""Search in whatever is live: resolve, encode with that snapshot's own model, search, and start over if it moved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.errors import IndexUnavailable
from pipelines.index.protocol import State, Visible
from pipelines.retrieval.search import Hit, Mode, Queries, Retriever, SlotMoved

# State of the slot, questions, mode -> their encodings by the model and term statistics that this state names.
Encode = Callable[[State, Sequence[str], Mode], Queries]

# A request starts over only when a whole update overtook it. While one is being promoted the window is milliseconds.
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits for each question, all of one snapshot. `snapshot_id` is None when the index was not asked."""

    snapshot_id: str | None
    hits: list[list[Hit]]


def search_live(
    retriever: Retriever,
    alias: str,
    texts: Sequence[str],
    *,
    visible: Callable[[State], Visible],
    k: int,
    encode: Encode,
    mode: Mode = "hybrid",
) -> Answer:
    """The `k` best rows of the live snapshot for each text, among those that the caller may read.

    Args:
        retriever: over the index.
        alias: name of the index.
        texts: questions.
        visible: the rows that the caller may be shown of the snapshot whose state it is given; none: no hits.
        k: hits a question at most.
        encode: encodes the questions for the snapshot whose state it is given; may be called again for another one.
        mode: which halves are used.

    Raises:
        SnapshotNotFound: nothing is live.
        IndexUnavailable: the index cannot be reached, or the live slot is never at rest.
    """
    if not texts:
        return Answer(None, [])
    for attempt in range(_ATTEMPTS):
        try:
            target = retriever.resolve(alias)
            shown = visible(target.state)
            if not shown:
                return Answer(target.snapshot_id, [[] for _ in texts])
            queries = encode(target.state, texts, mode)
            return Answer(target.snapshot_id, retriever.search(target, queries, visible=shown, k=k, mode=mode))
        except SlotMoved:
            time.sleep(_PAUSE_SECONDS * attempt)
    raise IndexUnavailable(
        f"searching index {alias!r}: its live slot was being rebuilt at each of {_ATTEMPTS} attempts. An update that "
        "was interrupted while no other slot was complete leaves that; run `lockstep update`"
    )
