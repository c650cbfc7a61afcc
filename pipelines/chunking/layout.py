"""A document as one text with sections: where each element lies in it, and under which headings.

Nothing is counted or divided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

SEPARATOR = "\n\n"
LINE_SEPARATOR = "\n"
LINE_KINDS = ("list_item", "header")  # those of one kind that follow one another stand on lines of one block
_HEADING_CHARACTERS = 300  # of one heading in a path; its full text stays in the body
_PATH_DEPTH = 9


class ElementLike(Protocol):
    """What the chunker reads of a parsed element (`pipelines.parsing.elements.Element` is one)."""

    @property
    def kind(self) -> str:
        """See `pipelines.parsing.elements.KINDS`."""

    @property
    def text(self) -> str:
        """Its text; a table's has one row a line, the header row first."""

    @property
    def level(self) -> int | None:
        """Heading depth, 1 = outermost."""

    @property
    def page(self) -> int | None:
        """1-based page."""


class Section(NamedTuple):
    """What stands under one heading. Section 0 is what comes before any heading."""

    ordinal: int
    level: int  # of its heading; -1 for section 0
    path: tuple[str, ...]  # headings from the outermost to its own
    line: tuple[int, ...]  # ordinals of the sections that contain it, outermost first, itself last


class Placed(NamedTuple):
    """One element with text, and where it lies in the document's text: half-open character offsets."""

    kind: str
    start: int
    end: int
    page: int | None
    section: int


class Layout(NamedTuple):
    """One document: its normalised text, its elements in it, its sections."""

    text: str
    elements: list[Placed]
    sections: list[Section]


def document_text(elements: Sequence[ElementLike]) -> str:
    """The document's normalised text, to which the spans of chunks refer.

    It is the texts of the elements, in order, joined by an empty line, and by a line end between two items of a
    list or two header lines; elements without visible text are left out.
    """
    return lay_out(elements).text


def lay_out(elements: Sequence[ElementLike]) -> Layout:
    """Place the elements of a document in one text and under their headings."""
    pieces: list[str] = []
    placed: list[Placed] = []
    sections = [Section(0, -1, (), ())]
    current = sections[0]
    at = 0
    previous = ""
    for element in elements:
        kind, text = element.kind, element.text
        if not text or text.isspace():
            continue
        if placed:
            separator = LINE_SEPARATOR if kind == previous and kind in LINE_KINDS else SEPARATOR
            pieces.append(separator)
            at += len(separator)
        if kind in ("title", "heading"):
            current = _open_section(sections, current, kind, text, element.level)
        placed.append(Placed(kind, at, at + len(text), element.page, current.ordinal))
        pieces.append(text)
        at += len(text)
        previous = kind
    return Layout("".join(pieces), placed, sections)


def common_section(sections: Sequence[Section], ordinals: set[int]) -> Section:
    """The innermost section that contains all of these."""
    if len(ordinals) == 1:
        return sections[next(iter(ordinals))]
    lines = [sections[o].line for o in ordinals]
    shared = 0
    for generation in zip(*lines, strict=False):
        if len(set(generation)) > 1:
            break
        shared = generation[0]
    return sections[shared]


def one_line(text: str) -> str:
    """The text with each run of white space as one space."""
    return " ".join(text.split())


def _open_section(sections: list[Section], current: Section, kind: str, text: str, level: int | None) -> Section:
    depth = 0 if kind == "title" else max(1, level or 1)
    line = [o for o in current.line if sections[o].level < depth][: _PATH_DEPTH - 1]
    heading = one_line(text)
    if len(heading) > _HEADING_CHARACTERS:
        heading = heading[: _HEADING_CHARACTERS - 1].rstrip() + "…"
    parent = sections[line[-1]].path if line else ()
    ordinal = len(sections)
    section = Section(ordinal, depth, (*parent, heading), (*line, ordinal))
    sections.append(section)
    return section
