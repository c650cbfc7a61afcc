"""Waiting inside a tick for something to become true. What is waited for belongs to the sensors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def first_good(look: Callable[[], _T], good: Callable[[_T], bool], *, seconds: float, pause: float) -> _T:
    """The first answer that is good; when the time is up, the last answer, whatever it is."""
    until = time.monotonic() + seconds
    while True:
        answer = look()
        if good(answer) or time.monotonic() >= until:
            return answer
        time.sleep(pause)
