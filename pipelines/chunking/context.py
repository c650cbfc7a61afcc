"""The line above a chunk's own text that says where in the document it stands: title > heading > heading."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipelines.chunking.layout import one_line
from pipelines.chunking.units import Limit

JOINT = " > "
_ELLIPSIS = "…"

Fits = Callable[[str], bool]


def context_line(parts: Sequence[str], limit: Limit, count: Callable[[str], int]) -> str:
    """The parts joined, or what of them fits: the middle goes first, then the ends of title and innermost heading.

    Args:
        parts: document title and headings, outermost first; empty ones and repetitions are left out.
        limit: what the line may have at most.
        count: tokens of a text, without special tokens.
    """

    def fits(text: str, share: int = 1) -> bool:
        return len(text) * share <= limit.characters and count(text) * share <= limit.tokens

    named = _distinct(parts)
    if not named:
        return ""
    candidates = [named, *([named[0], _ELLIPSIS, *named[k:]] for k in range(2, len(named)))]
    for candidate in candidates:
        line = JOINT.join(candidate)
        if fits(line):
            return line
    if len(named) == 1:
        return _shortened(named[0], fits)
    last = named[-1] if fits(named[-1], 2) else _shortened(named[-1], lambda text: fits(text, 2))
    first = _shortened(named[0], lambda text: fits(JOINT.join((text, last))))
    return JOINT.join(part for part in (first, last) if part)


def _distinct(parts: Sequence[str]) -> list[str]:
    out: list[str] = []
    for part in map(one_line, parts):
        if part and (not out or part.casefold() != out[-1].casefold()):
            out.append(part)
    return out


def _shortened(text: str, fits: Fits) -> str:
    """The longest beginning of the text that fits with an ellipsis: whole words, else characters; or nothing."""
    words = text.split(" ")
    n = _most(len(words) - 1, lambda n: fits(" ".join(words[:n]) + " " + _ELLIPSIS))
    if n:
        return " ".join(words[:n]) + " " + _ELLIPSIS
    n = _most(min(len(words[0]), 200), lambda n: fits(words[0][:n] + _ELLIPSIS))
    return words[0][:n] + _ELLIPSIS if n else ""


def _most(most: int, holds: Callable[[int], bool]) -> int:
    """The largest n in 1..most for which it holds, by bisection; 0 where it holds for none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
