"""Lines of text as they stand on pages, and which of them are page headers, footers and page numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ZONE = 0.12  # share of the page height, at top and bottom, in which headers and footers stand
_SAME_PLACE = 6.0  # points by which a repeated line may move
_MIN_SHARE = 0.3  # of the pages; with different left and right pages each header is on half of them
_DIGITS = re.compile(r"\d+")
_PAGE_NUMBER = re.compile(
    r"^[\W_]*(?:(?:page|pg\.?|p\.|seite|página|pagina)\s*)?(?:\d{1,4}|[ivxlc]{1,7})(?:\s*(?:of|/|von|de|di|sur)\s*\d{1,4})?[\W_]*$",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a line between wide gaps; `left` and `right` in points."""

    text: str
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a page; coordinates in points from the lower left corner of the page.

    Attributes:
        text: as the page has it, without the line break.
        page: 1-based.
        left, right, bottom, top: of the first and last character.
        size: of the font, in points as it appears.
        bold: whether its font is a bold one.
        height: of the whole page.
        pieces: what stands between gaps too wide for a space; one piece in running text.
    """

    text: str
    page: int
    left: float
    right: float
    bottom: float
    top: float
    size: float
    bold: bool
    height: float
    pieces: tuple[Piece, ...]

    @property
    def at_edge(self) -> bool:
        """Whether it stands where page headers and footers do."""
        return self.bottom > self.height * (1 - _ZONE) or self.top < self.height * _ZONE


def without_furniture(pages: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """The pages without lines that repeat at the same place of many pages, and without page numbers.

    A repeated line set larger than the text around it is a title: its first appearance stays.
    """
    places: Counter[tuple[str, int]] = Counter()
    for page in pages:
        places.update({(_mask(line.text), _place(line)) for line in page if line.at_edge})
    needed = max(2, round(len(pages) * _MIN_SHARE))
    kept_titles: set[str] = set()
    out = []
    for page in pages:
        body = sorted(line.size for line in page)
        usual = body[len(body) // 2] if body else 0.0
        kept = []
        for line in page:
            if line.at_edge:
                key = _mask(line.text)
                # rounding puts two neighbours into different bins, so the bins beside count too
                seen = max(places[key, _place(line) + shift] for shift in (-1, 0, 1))
                if seen >= needed and len(pages) > 1:
                    if line.size < usual * 1.2 or key in kept_titles:
                        continue
                    kept_titles.add(key)
                elif _PAGE_NUMBER.match(line.text) and line.size <= usual * 1.2:
                    continue
            kept.append(line)
        out.append(kept)
    return out


def _mask(text: str) -> str:
    return _DIGITS.sub("#", " ".join(text.split()).lower())


def _place(line: Line) -> int:
    return round(line.bottom / _SAME_PLACE)
