"""Where a text may be divided: sentences, clauses, groups of words, groups of written characters.

The sentence rules are those of Unicode (UAX #29) on the character properties of the `regex` library, made stricter
for the full stop, which is mostly an abbreviation or a decimal point where no white space follows. They need no white
space after the marks of Chinese, Japanese, Hindi and others. Groups end where the content says so and not at a
count, so that text put in early leaves the later groups as they were.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import regex

Span = tuple[int, int]  # half-open character offsets

_SHORTEST = 12  # characters of a sentence or clause; a shorter one stays with the next: rows of marks are no sentences

# Ends a sentence: marks of the Latin kind before white space, the others anywhere; then closing quotes and brackets.
_SENTENCE_END = regex.compile(
    r"""(?V1)
    (?: (?<![.!?])[.!?]++ [\p{Sentence_Break=Close}'"]*+ \s++
      | (?<!．)[\p{Sentence_Break=STerm}．--[!?]]++ (?!(?<=．)\p{Number})
        [\p{Sentence_Break=Close}--[\p{Ps}\p{Pi}]]*+ \s*+
      | \n [^\S\n]*+ \n \s*+ )
    """,
    regex.VERBOSE,
)
# A full stop before these goes on with the same sentence (UAX #29, SB8, SB8a). Bounded, so that long rows
# of marks stay cheap.
_CONTINUES = regex.compile(
    r"(?V1)[^\p{Letter}\p{Number}\p{Sentence_Break=STerm}\p{Sentence_Break=ATerm}\n]{0,16}+ (?:\p{Ll}|[,;:、，])",
    regex.VERBOSE,
)
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]*\Z")
_ABBREVIATED = (
    "al approx art ca cf ch col cp dept dr ed eds e.g eg eq eqs esp est etc ex fig figs i.e ie jr ltd max min mr mrs "
    "ms no nos nr op p par pp prof ref refs resp sec sect sp spp sr st str subsp suppl tab vol vs viz z.b d.h bzw usw"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_CLAUSE_END = regex.compile(r"[,;:]\s+|[，；：、،؛]\s*|\s[-–—]\s|\n+")
_EMPTY_LINES = re.compile(r"\n[^\S\n]*\n(?:[^\S\n]*\n)*")
_WORD = re.compile(r"\S+\s*")
_CHARACTER = regex.compile(r"\X")


def sentences(text: str, start: int, end: int) -> list[Span]:
    """Spans of the sentences of text[start:end], without gaps: white space belongs to the sentence before it."""
    cuts = []
    least = start + _SHORTEST
    for match in _SENTENCE_END.finditer(text, start, end):
        at = match.end()
        if at >= end:
            break
        if at < least:
            continue
        if text[match.start()] == "." and (_CONTINUES.match(text, at, end) or _abbreviated(text, start, match.start())):
            continue
        cuts.append(at)
        least = at + _SHORTEST
    return _between(start, end, cuts)


def clauses(text: str, start: int, end: int) -> list[Span]:
    """Spans between commas, colons, dashes and line ends of text[start:end], without gaps."""
    cuts = []
    least = start + _SHORTEST
    for match in _CLAUSE_END.finditer(text, start, end):
        if least <= match.end() < end:
            cuts.append(match.end())
            least = match.end() + _SHORTEST
    return _between(start, end, cuts)


def paragraphs(text: str, start: int, end: int) -> list[Span]:
    """Spans between empty lines of text[start:end], without gaps."""
    cuts = [m.end() for m in _EMPTY_LINES.finditer(text, start, end) if m.end() < end]
    return _between(start, end, cuts)


def lines(text: str, start: int, end: int) -> list[Span]:
    """Spans of the lines of text[start:end], each with its line end."""
    cuts = []
    at = text.find("\n", start, end)
    while 0 <= at < end - 1:
        cuts.append(at + 1)
        at = text.find("\n", at + 1, end)
    return _between(start, end, cuts)


def word_groups(text: str, start: int, end: int) -> list[Span]:
    """Spans of about twelve words of text[start:end], without gaps."""
    return _grouped(text, (m.span() for m in _WORD.finditer(text, start, end)), start, end, least=6, most=24, one_in=6)


def character_groups(text: str, start: int, end: int, *, most: int = 48) -> list[Span]:
    """Spans of at most `most` written characters (grapheme clusters) of text[start:end], without gaps.

    A cluster of more than 64 code points (no writing, but a heap of marks) is divided.
    """
    found = (piece for m in _CHARACTER.finditer(text, start, end) for piece in _short(m.span()))
    least = max(1, most // 4)
    return _grouped(text, found, start, end, least=least, most=most, one_in=max(2, least))


def _abbreviated(text: str, start: int, stop: int) -> bool:
    """Whether the full stop at `stop` follows an abbreviation or an initial."""
    match = _LAST_WORD.search(text, max(start, stop - 12), stop)
    word = match.group() if match else ""
    return (len(word) == 1 and word.isupper()) or word.lower() in _ABBREVIATIONS


def _between(start: int, end: int, cuts: list[int]) -> list[Span]:
    return list(zip([start, *cuts], [*cuts, end], strict=True))


def _short(span: Span) -> Iterator[Span]:
    start, end = span
    for at in range(start, end, 64):
        yield at, min(at + 64, end)


def _grouped(
    text: str,
    pieces: Iterator[Span],
    start: int,
    end: int,
    *,
    least: int,
    most: int,
    one_in: int,
) -> list[Span]:
    """Groups of consecutive pieces; one ends after a piece whose own hash says so, once it has `least` pieces."""
    cuts = []
    size = 0
    for a, b in pieces:
        size += 1
        if b < end and (
            size >= most or (size >= least and zlib.crc32(text[a:b].encode("utf-8", "surrogatepass")) % one_in == 0)
        ):
            cuts.append(b)
            size = 0
    return _between(start, end, cuts)
