"""Lines of pages to elements: paragraphs by spacing and indentation, headings by outline, size and weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median

from pipelines.parsing import page_tables
from pipelines.parsing.elements import Element
from pipelines.parsing.list_marks import BULLET, NUMBER
from pipelines.parsing.normalise import hyphenated_words, join_lines, one_line
from pipelines.parsing.page_lines import Line

Outline = Mapping[tuple[int, str], int]  # (page, title in lower case) to level, 1 = outermost

_LARGER = 1.12  # times the body's size makes a heading
_MAX_HEADING = 200  # characters
_MAX_BOLD_HEADING = 100
_GAP = 1.35  # times the usual distance between lines begins a paragraph
_SENTENCE_END = (".", "!", "?", ":", ";", "。", "！", "？", "”", '"', ")")


def elements(pages: Sequence[Sequence[Line]], outline: Outline) -> list[Element]:
    """The elements of these pages in their order; blocks that run over a page's end are put together."""
    lines = [line for page in pages for line in page]
    if not lines:
        return []
    body = _body_size(lines)
    levels = _levels(lines, body)
    hyphenated = hyphenated_words("\n".join(line.text for line in lines))
    out: list[Element] = []
    for page in pages:
        leading = _leading(page)
        for part in page_tables.split(page):
            if isinstance(part, Element):
                out.append(part)
                continue
            for block in _blocks(part, body, leading, outline):
                element = _element(block, body, levels, outline, hyphenated)
                if out and _continues(out[-1], element):
                    text = join_lines(f"{out[-1].text}\n{element.text}", hyphenated)
                    out[-1] = Element("paragraph", text, page=out[-1].page)
                else:
                    out.append(element)
    return out


def _body_size(lines: Sequence[Line]) -> float:
    """The size most characters are set in."""
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[_round(line.size)] += len(line.text)
    return max(sizes, key=lambda size: (sizes[size], size))


def _levels(lines: Sequence[Line], body: float) -> dict[float, int]:
    """Sizes above the body's, largest first, as heading levels 1 to 5."""
    counts: Counter[float] = Counter()
    for line in lines:
        if line.size > body * _LARGER and len(line.text) <= _MAX_HEADING and any(map(str.isalpha, line.text)):
            counts[_round(line.size)] += 1
    levels: dict[float, int] = {}
    level, previous = 0, float("inf")
    for size in sorted(counts, reverse=True):
        if size < previous * 0.96:  # nearly the same size is the same level
            level, previous = min(level + 1, 5), size
        levels[size] = level
    return levels


def _leading(page: Sequence[Line]) -> float:
    steps = [a.bottom - b.bottom for a, b in pairwise(page) if 0 < a.bottom - b.bottom < 4 * a.size]
    return median(steps) if steps else 0.0


def _blocks(page: Sequence[Line], body: float, leading: float, outline: Outline) -> Iterator[list[Line]]:
    block: list[Line] = []
    right = max((line.right for line in page), default=0.0)
    for line in page:
        if block and _begins(block, line, body, leading, right, outline):
            yield block
            block = []
        block.append(line)
    if block:
        yield block


def _begins(block: list[Line], line: Line, body: float, leading: float, right: float, outline: Outline) -> bool:
    """Whether `line` begins a new block after `block`."""
    last = block[-1]
    step = last.bottom - line.bottom
    if abs(line.size - last.size) > 0.08 * max(line.size, last.size) and not _same_row(last, line):
        return True
    if BULLET.match(line.text) or (NUMBER.match(line.text) and line.left <= block[0].left + line.size):
        return not _same_row(last, line)
    if _outlined(last, outline) != _outlined(line, outline):
        return True
    if _same_row(last, line):
        return False
    if _looks_bold_heading(block, body) and not line.bold:
        return True
    if line.bold and not last.bold and len(line.text) <= _MAX_BOLD_HEADING and step > 0:
        return last.text.rstrip().endswith(_SENTENCE_END) or step > leading * _GAP
    ended = last.text.rstrip().endswith(_SENTENCE_END)
    if step < 0:  # next column, or a line out of order
        return ended or not line.text[:1].islower()
    if step > max(leading, line.size * 1.05) * _GAP:
        return True
    width = max(right - last.left, 1.0)
    if (
        ended
        and last.right < last.left + width * 0.8
        and last.right < max(item.right for item in block) - 2 * last.size
    ):
        return True
    return ended and line.left > block[-1].left + line.size * 0.8 and len(block) > 1


def _same_row(a: Line, b: Line) -> bool:
    return abs(a.bottom - b.bottom) < 0.3 * max(a.size, b.size, 1.0)


def _outlined(line: Line, outline: Outline) -> bool:
    return (line.page, one_line(line.text).lower()) in outline


def _looks_bold_heading(block: list[Line], body: float) -> bool:
    text = " ".join(line.text.strip() for line in block)
    return (
        all(line.bold for line in block)
        and len(block) <= 2
        and block[0].size >= body * 0.97
        and 2 < len(text) <= _MAX_BOLD_HEADING
        and not text.rstrip().endswith((".", ";", ","))
        and any(map(str.isalpha, text))
    )


def _element(
    block: list[Line], body: float, levels: Mapping[float, int], outline: Outline, hyphenated: frozenset[str]
) -> Element:
    text = join_lines("\n".join(line.text.strip() for line in block), hyphenated)
    page, first = block[0].page, block[0]
    if (level := outline.get((page, text.lower()))) is not None:
        return Element("heading", text, level=level, page=page)
    larger = _round(first.size) in levels and first.size > body * _LARGER
    if larger and len(text) <= _MAX_HEADING and len(block) <= 4 and any(map(str.isalpha, text)):
        return Element("heading", text, level=levels[_round(first.size)], page=page)
    if _looks_bold_heading(block, body) and len(text) > 3:
        return Element("heading", text, level=min(max(levels.values(), default=0) + 1, 6), page=page)
    if BULLET.match(text):
        return Element("list_item", BULLET.sub("", text), page=page)
    if NUMBER.match(text):
        return Element("list_item", text, page=page)
    return Element("paragraph", text, page=page)


def _continues(last: Element, element: Element) -> bool:
    """Whether a paragraph goes on after the end of its page."""
    if last.kind != "paragraph" or element.kind != "paragraph" or last.page is None or element.page is None:
        return False
    return element.page == last.page + 1 and element.text[:1].islower() and not last.text.endswith(_SENTENCE_END)


def _round(size: float) -> float:
    return round(size * 2) / 2
