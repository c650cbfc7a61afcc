"""The smallest pieces that chunks are made of: whole paragraphs, items, tables, or parts of what is too long.

Every unit fits into a chunk of its own, whatever its context; that is what makes "nothing is ever cut by the
encoder" hold. Which units share a chunk is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import NamedTuple

from pipelines.chunking import segments
from pipelines.chunking.layout import LINE_KINDS, Layout, Placed
from pipelines.embedding.tokenizer import Tokenizer

_LONG_TOKEN = 6  # characters a token; what has more characters than this allows is divided without counting it whole


class Gap(IntEnum):
    """What lies before a unit: the higher, the better a place to begin a chunk. Headings go on above HEADING."""

    AFTER_HEADING = 0
    CHARACTERS = 1
    WORDS = 2
    CLAUSE = 3
    SENTENCE = 4
    LINE = 5  # list items, table rows, lines of code
    PARAGRAPH = 6
    HEADING = 7  # of the deepest level; plus one for each level further out


class Unit(NamedTuple):
    """One piece of a document: half-open character offsets in its text, without surrounding white space."""

    start: int
    end: int
    tokens: int  # of this text alone, without special tokens
    gap: int
    kind: str
    section: int
    page: int | None
    tight: bool  # no plain white space before it, so that token counts need not add up across the gap
    header: str  # to repeat above it where a chunk begins with it (a table's first row), or empty
    header_tokens: int


class Limit(NamedTuple):
    """What one unit may have at most, so that it fits into a chunk together with any context."""

    tokens: int
    characters: int


class _Piece(NamedTuple):
    start: int
    end: int
    gap: int
    tokens: int  # -1: not counted yet


_Ladder = tuple[tuple[int, Callable[[str, int, int], list[segments.Span]]], ...]

_PROSE: _Ladder = (
    (Gap.SENTENCE, segments.sentences),
    (Gap.CLAUSE, segments.clauses),
    (Gap.WORDS, segments.word_groups),
    (Gap.CHARACTERS, segments.character_groups),
    (Gap.CHARACTERS, partial(segments.character_groups, most=8)),
    (Gap.CHARACTERS, partial(segments.character_groups, most=1)),
    (Gap.CHARACTERS, lambda _text, start, end: [(at, at + 1) for at in range(start, end)]),
)
_CODE: _Ladder = ((Gap.PARAGRAPH, segments.paragraphs), (Gap.LINE, segments.lines), *_PROSE[2:])
_TABLE: _Ladder = ((Gap.LINE, segments.lines), *_PROSE)
_LADDERS = {"code": _CODE, "table": _TABLE}


def units_of(layout: Layout, tokenizer: Tokenizer, limit: Limit) -> list[Unit]:
    """The units of a document, in order; together they hold every character of its text but white space."""
    whole = [_trim(layout.text, e.start, e.end, e.kind == "code") for e in layout.elements]
    short = [i for i, (a, b) in enumerate(whole) if b - a <= min(limit.tokens * _LONG_TOKEN, limit.characters)]
    counts = dict(zip(short, tokenizer.count_bare([layout.text[slice(*whole[i])] for i in short]), strict=True))
    units: list[Unit] = []
    previous = ""
    for i, element in enumerate(layout.elements):
        start, end = whole[i]
        gap = _gap(layout, element, previous)
        tokens = counts.get(i, limit.tokens + 1)
        if tokens <= limit.tokens:
            units.append(Unit(start, end, tokens, gap, element.kind, element.section, element.page, False, "", 0))
        else:
            units += _divided(layout.text, element, _Piece(start, end, gap, -1), tokenizer, limit)
        previous = element.kind
    return units


def _gap(layout: Layout, element: Placed, previous: str) -> int:
    if previous in ("title", "heading"):
        return Gap.AFTER_HEADING
    if element.kind in ("title", "heading"):
        return Gap.HEADING + max(0, 9 - layout.sections[element.section].level)
    if element.kind == previous and element.kind in LINE_KINDS:
        return Gap.LINE
    return Gap.PARAGRAPH


def _divided(text: str, element: Placed, whole: _Piece, tokenizer: Tokenizer, limit: Limit) -> list[Unit]:
    """The units of one element that is too long."""
    header, header_tokens, header_end = "", 0, whole.start
    if element.kind == "table":
        header, header_tokens, header_end = _table_header(text, whole, tokenizer, limit)
        limit = Limit(limit.tokens - header_tokens, limit.characters - len(header))
    pieces = [whole]
    for gap, divide in _LADDERS.get(element.kind, _PROSE):
        pieces = _step(text, pieces, gap, divide, tokenizer, limit, indented=element.kind == "code")
        if all(0 <= p.tokens <= limit.tokens and p.end - p.start <= limit.characters for p in pieces):
            break
    units: list[Unit] = []
    before = None
    for piece in pieces:
        between = text[before : piece.start] if before is not None else "\n"
        tight = " " not in between and "\n" not in between
        repeated = header if piece.start >= header_end else ""
        units.append(
            Unit(
                piece.start,
                piece.end,
                piece.tokens,
                piece.gap,
                element.kind,
                element.section,
                element.page,
                tight,
                repeated,
                header_tokens if repeated else 0,
            )
        )
        before = piece.end
    return units


def _step(
    text: str,
    pieces: list[_Piece],
    gap: int,
    divide: Callable[[str, int, int], list[segments.Span]],
    tokenizer: Tokenizer,
    limit: Limit,
    *,
    indented: bool,
) -> list[_Piece]:
    """Divide the pieces that are too long one step finer, and count the new ones."""
    out: list[_Piece] = []
    fresh: list[int] = []
    for piece in pieces:
        if 0 <= piece.tokens <= limit.tokens and piece.end - piece.start <= limit.characters:
            out.append(piece)
            continue
        first = True
        for span in divide(text, piece.start, piece.end):
            start, end = _trim(text, *span, indented)
            if start < end:
                fresh.append(len(out))
                out.append(_Piece(start, end, piece.gap if first else gap, -1))
                first = False
    counts = tokenizer.count_bare([text[out[i].start : out[i].end] for i in fresh])
    for i, tokens in zip(fresh, counts, strict=True):
        out[i] = out[i]._replace(tokens=tokens)
    return out


def _table_header(text: str, table: _Piece, tokenizer: Tokenizer, limit: Limit) -> tuple[str, int, int]:
    """The first row, its tokens and where it ends; empty where there is no second row, or it takes over a third."""
    end = text.find("\n", table.start, table.end)
    if end < 0:
        return "", 0, table.start
    header = text[table.start : end].strip()
    tokens = tokenizer.count_bare([header])[0]
    if tokens * 3 > limit.tokens or len(header) * 3 > limit.characters:
        return "", 0, table.start
    return header, tokens, end


def _trim(text: str, start: int, end: int, indented: bool) -> tuple[int, int]:
    """The span without white space around it; with `indented`, the first line keeps its indentation."""
    piece = text[start:end]
    stripped = piece.lstrip()
    first = end - len(stripped)
    if indented and stripped:
        first = start + piece.rfind("\n", 0, first - start) + 1
    return first, first + len(text[first:end].rstrip())
