"""Plain text: paragraphs by blank lines, lists by their marks, headings only where they are underlined or numbered."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.limits import Limits
from pipelines.parsing.list_marks import BULLET, NUMBER
from pipelines.parsing.normalise import hyphenated_words, join_lines

_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_UNDERLINE = re.compile(r"^\s*([=\-~^*#])\1{2,}\s*$")
_RULE = re.compile(r"^\W+$")
_CHAPTER = re.compile(r"^(?:chapter|part|section|appendix|book|kapitel|teil)\s+[\dIVXLC]+\b.{0,80}$", re.I)
_NUMBERED = re.compile(r"^(\d{1,2}(?:\.\d{1,2}){0,4})\.?\s+[^\W\d_].{0,100}[^.;,:]$")
_SENTENCE_END = (".", "!", "?", ":", ";", "。", "！", "？", "”", '"')
_WRAP_COLUMN = 50  # lines mostly this long or longer are wrapped by hand, shorter ones are meant as lines


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The document's elements; form feeds are page breaks."""
    return parse_text(decode(content))


def parse_text(text: str) -> Parsed:
    """As `parse`, of text that is decoded already."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\ufeff")
    hyphenated = hyphenated_words(text)
    pages = text.rstrip("\f\n ").split("\f")
    many = len(pages) > 1
    out = [
        element
        for number, page in enumerate(pages, 1)
        for block in _BLANK.split(page)
        for element in _block(block.strip("\n"), number if many else None, hyphenated)
    ]
    return Parsed(tuple(out), pages=len(pages) if many else None)


def paragraphs(text: str) -> list[Element]:
    """The elements of plain text inside another format."""
    return list(parse_text(text).elements)


def _block(block: str, page: int | None, hyphenated: frozenset[str]) -> Iterator[Element]:
    lines = [line for line in block.split("\n") if line.strip()]
    if not lines or all(_RULE.match(line) for line in lines):
        return
    if len(lines) >= 2 and (mark := _UNDERLINE.match(lines[1])) and len(lines[0].strip()) <= 120:
        yield Element("heading", lines[0], level=1 if mark.group(1) in "=#*" else 2, page=page)
        lines = lines[2:]
    elif len(lines) == 1 and (level := _heading_level(lines[0])):
        yield Element("heading", lines[0], level=level, page=page)
        return
    item: list[str] = []
    is_list = False
    for line in lines:
        if BULLET.match(line) or (NUMBER.match(line) and (is_list or _begins_list(lines))):
            yield from _end(item, is_list=is_list, page=page, hyphenated=hyphenated)
            item, is_list = [BULLET.sub("", line)], True
        else:
            item.append(line)
    yield from _end(item, is_list=is_list, page=page, hyphenated=hyphenated)


def _end(lines: list[str], *, is_list: bool, page: int | None, hyphenated: frozenset[str]) -> Iterator[Element]:
    if not lines:
        return
    text = "\n".join(line.strip() for line in lines)
    if is_list or _is_wrapped(lines):
        text = join_lines(text, hyphenated)
    yield Element("list_item" if is_list else "paragraph", text, page=page)


def _is_wrapped(lines: list[str]) -> bool:
    """Whether the line breaks come from wrapping: most lines but the last are long, or a word is broken at an end."""
    body = [len(line.rstrip()) for line in lines[:-1]]
    if not body:
        return False
    if any(re.search(r"[^\W\d_]-\s*$", line) for line in lines[:-1]):
        return True
    return sum(size >= _WRAP_COLUMN for size in body) * 3 >= len(body) * 2


def _begins_list(lines: list[str]) -> bool:
    return sum(1 for line in lines if NUMBER.match(line)) >= 2 or len(lines) == 1


def _heading_level(line: str) -> int:
    """Depth of a line that stands alone and reads as a heading; 0 when it does not."""
    line = line.strip()
    if _CHAPTER.match(line):
        return 1
    if match := _NUMBERED.match(line):
        return match.group(1).count(".") + 1
    letters = [c for c in line if c.isalpha()]
    if len(letters) >= 3 and len(line) <= 80 and all(c.isupper() for c in letters) and not line.endswith(_SENTENCE_END):
        return 1
    return 0
