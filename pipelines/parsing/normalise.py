"""Text as it is stored: NFC, no control characters, regular spaces, hyphenation mended, titles and dates cleaned.

Only text-level rules live here; what repeats from page to page is `page_furniture`'s.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

# Removed: C0/C1 controls but tab and newline, soft hyphen, zero-width space, word joiner, byte order mark, directional
# marks and embeddings (U+200E/F, U+202A-E, U+2066-9), interlinear annotation. Kept: the zero-width joiner and
# non-joiner, which Persian, Indic scripts and emoji need.
_REMOVED = (
    {*range(0x09), 0x0E, 0x0F, *range(0x10, 0x20), *range(0x7F, 0x85), *range(0x86, 0xA0)}
    | {0xAD, 0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, 0xFFF9, 0xFFFA, 0xFFFB, 0xFFFE, 0xFFFF}
    | {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
)
_TABLE: dict[int, int | None] = dict.fromkeys(_REMOVED)
_TABLE |= dict.fromkeys((0x0B, 0x0C, 0x85, 0x2028, 0x2029), 0x0A)  # other line breaks
_TABLE |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)  # lone surrogates cannot be stored as UTF-8
# Which bytes need work at all: nearly all text passes this in one scan.
_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
_SPACES = re.compile(r"[^\S\n]+")
_AROUND_NEWLINE = re.compile(r" *\n *")
_MANY_NEWLINES = re.compile(r"\n{3,}")
_BROKEN_WORD = re.compile(r"(\w+)[-\u2010\u00ad]\n[^\S\n]*([a-zà-öø-ÿ]\w*)")
_HYPHENATED = re.compile(r"\w+(?:[-\u2010]\w+)+")


def clean(text: str) -> str:
    """`text` in NFC with control and invisible characters removed and all line breaks as newline."""
    if _SUSPECT.search(text):
        text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_TABLE)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def flow(text: str) -> str:
    """Running text: cleaned, runs of spaces made one, at most one blank line in a row, no blanks at either end."""
    text = _SPACES.sub(" ", clean(text))
    if "\n" in text:
        text = _MANY_NEWLINES.sub("\n\n", _AROUND_NEWLINE.sub("\n", text))
    return text.strip()


def one_line(text: str) -> str:
    """Running text on a single line, as titles, headings and table cells are."""
    return " ".join(clean(text).split())


def preformatted(text: str) -> str:
    """Code: cleaned, indentation kept, trailing blanks of lines and blank lines at either end removed."""
    lines = [line.rstrip() for line in clean(text).split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines)


def hyphenated_words(text: str) -> frozenset[str]:
    """Words that carry a hyphen inside a line of `text`, lower-case: what `join_lines` must not glue together."""
    return frozenset(match.group().replace("\u2010", "-").lower() for match in _HYPHENATED.finditer(text))


def join_lines(text: str, hyphenated: Collection[str] = frozenset()) -> str:
    """Hard-wrapped lines of one paragraph as one line, words broken at line ends mended.

    A hyphen at a line end before a lower-case letter is a break of the word, unless the hyphenated form is in
    `hyphenated` (it stands inside a line elsewhere in the document) or one of its halves is a number.
    """
    text = text.replace("\ufffe\n", "\u00ad\n").replace("\x02\n", "\u00ad\n")  # PDFium's two marks for such a break

    def mend(match: re.Match[str]) -> str:
        head, tail = match.group(1), match.group(2)
        keep = f"{head}-{tail}".lower() in hyphenated or head[-1].isdigit() or head.isupper()
        return f"{head}-{tail}" if keep and "\u00ad" not in match.group() else head + tail

    return " ".join(_BROKEN_WORD.sub(mend, text).split())
