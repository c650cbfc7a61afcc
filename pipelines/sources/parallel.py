"""Documents fetched side by side, for sources whose answers take longer to come than to read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from queue import SimpleQueue

from pipelines.sources.base import Fetched, FetchFailure

Answer = Fetched | FetchFailure

HELD_BYTES = 128 * 1024 * 1024
"""Of contents that were read and not taken yet, or are being read: so many at most, or one document that is larger."""


class Room:
    """How many bytes may be held at a time. A document waits until it fits; one alone always does."""

    def __init__(self, size_bytes: int = HELD_BYTES) -> None:
        self._size, self._taken = size_bytes, 0
        self._free = threading.Condition()
        self._closed = False

    def take(self, size_bytes: int) -> None:
        """Wait until there is room for a document, and take it."""
        with self._free:
            self._free.wait_for(lambda: self._closed or not self._taken or self._taken + size_bytes <= self._size)
            self._taken += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """The document was handed on, or was not read after all."""
        with self._free:
            self._taken -= size_bytes
            self._free.notify_all()

    def close(self) -> None:
        """Nobody takes documents any more: whoever waits goes on, to its end."""
        with self._free:
            self._closed = True
            self._free.notify_all()


def side_by_side(
    uris: Iterable[str], fetch: Callable[[str, Room], tuple[Answer, int]], *, at_once: int, name: str
) -> Iterator[Answer]:
    """The answer for each uri, in the order in which they come.

    Args:
        uris: documents, taken as room becomes free.
        fetch: called in threads with a uri and the room for its content; gives the answer, and how many bytes of room
            it still holds. What it raises ends everything: it is about the source, not about one document.
        at_once: fetches under way at a time.
        name: of the threads.
    """
    room = Room()
    waiting = iter(uris)
    done: SimpleQueue[Future[tuple[Answer, int]]] = SimpleQueue()
    under_way = 0
    with ThreadPoolExecutor(at_once, name) as pool:
        try:
            while True:
                for uri in islice(waiting, at_once - under_way):
                    pool.submit(fetch, uri, room).add_done_callback(done.put)
                    under_way += 1
                if not under_way:
                    return
                answer, held = done.get().result()
                under_way -= 1
                room.give_back(held)
                yield answer
        finally:
            room.close()
            pool.shutdown(wait=False, cancel_futures=True)
