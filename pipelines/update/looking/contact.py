"""Sources contacted side by side: one that fails or hangs stops no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipelines.errors import SourceStalled

_T = TypeVar("_T")
_LOOK_SECONDS = 0.05

Beat = Callable[[], None]
"""Called by the work whenever it got on."""


@dataclass(slots=True)
class _Contact(Generic[_T]):
    """One piece of work in a thread of its own."""

    name: str
    work: Callable[[Beat], _T]
    stall_seconds: float
    last: float = field(default_factory=time.monotonic)
    result: list[_T] = field(default_factory=list)
    error: list[BaseException] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        # A daemon: a contact that hangs for ever must not keep the process from ending.
        threading.Thread(target=self._run, name=f"source {self.name}", daemon=True).start()

    def beat(self) -> None:
        self.last = time.monotonic()

    def _run(self) -> None:
        try:
            self.result.append(self.work(self.beat))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self.error.append(error)
        finally:
            self.ended.set()

    def wait(self) -> _T | BaseException:
        """The result or the error; given up when nothing was heard for too long."""
        while not self.ended.wait(_LOOK_SECONDS):
            silent = time.monotonic() - self.last
            if silent > self.stall_seconds:
                return SourceStalled(
                    f"source {self.name!r} gave no sign for {silent:.0f} seconds (`stall_seconds` is "
                    f"{self.stall_seconds:.0f}); the others go on without it. Look whether it can be reached, or raise "
                    "`stall_seconds` if it is that slow"
                )
        return self.error[0] if self.error else self.result[0]


def side_by_side(
    work: Mapping[str, Callable[[Beat], _T]], stall_seconds: Mapping[str, float]
) -> dict[str, _T | BaseException]:
    """Do each piece of work in a thread of its own, and give what it returned or raised, by name.

    A piece that calls its beat for nothing in `stall_seconds` is given up: its thread is left alone, and whatever it
    still does must do no harm.
    """
    contacts = [_Contact(name, task, stall_seconds[name]) for name, task in work.items()]
    for contact in contacts:
        contact.start()
    return {contact.name: contact.wait() for contact in contacts}
