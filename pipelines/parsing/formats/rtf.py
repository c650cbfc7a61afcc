"""Rich Text Format: paragraphs, headings by style or outline level, list items, tables, document properties."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipelines.parsing.dates import iso
from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.failures import Damaged
from pipelines.parsing.limits import Limits
from pipelines.parsing.tables import table

_TOKEN = re.compile(
    rb"\\([a-z]{1,32})(-?\d{1,10})?[ ]?|\\'([0-9a-f]{2})|\\([^a-z])|([{}])|[\r\n]+|([^\\{}\r\n]+)", re.I
)
_BINARY = re.compile(rb"\\bin(\d{1,9}) ?")
# Groups whose content is not the document's text.
_ASIDE = frozenset(
    [
        "fonttbl",
        "colortbl",
        "stylesheet",
        "info",
        "pict",
        "object",
        "themedata",
        "colorschememapping",
        "datastore",
        "latentstyles",
        "listtable",
        "listoverridetable",
        "rsidtbl",
        "generator",
        "xmlnstbl",
        "header",
        "headerl",
        "headerr",
        "headerf",
        "footer",
        "footerl",
        "footerr",
        "footerf",
        "fldinst",
        "nonshppict",
        "shppict",
        "sp",
        "bkmkstart",
        "bkmkend",
        "listtext",
        "pntext",
        "filetbl",
        "revtbl",
        "mmathpr",
        "wgrffmtfilter",
        "template",
        "annotation",
        "atnid",
        "atnauthor",
        "atrfstart",
        "atrfend",
        "private",
        "pgptbl",
        "falt",
        "panose",
    ]
)
_SYMBOLS = {
    "par": "\n",
    "sect": "\n",
    "page": "\n",
    "line": "\v",
    "tab": "\t",
    "emdash": "—",
    "endash": "–",
    "emspace": " ",
    "enspace": " ",
    "lquote": "‘",
    "rquote": "’",
    "ldblquote": "“",
    "rdblquote": "”",
    "bullet": "•",
    "~": " ",
    "_": "-",
    "-": "",
}
_CHARSETS = {
    0: 1252,
    77: 10000,
    128: 932,
    129: 949,
    130: 1361,
    134: 936,
    136: 950,
    161: 1253,
    162: 1254,
    163: 1258,
    177: 1255,
    178: 1256,
    186: 1257,
    204: 1251,
    222: 874,
    238: 1250,
}
_MAX_DEPTH = 500


@dataclass(frozen=True, slots=True)
class _State:
    """What a group inherits from the one around it."""

    destination: str = ""  # "" is the document's text
    codepage: str = "cp1252"
    skip: int = 1  # how many characters follow a \\u as its replacement
    hidden: bool = False


@dataclass(slots=True)
class _Paragraph:
    """Properties of the paragraph that is being read."""

    style: int = 0
    outline: int | None = None
    listed: bool = False
    in_table: bool = False


@dataclass(slots=True)
class _Reader:
    state: _State = _State()
    stack: list[_State] = field(default_factory=list)
    paragraph: _Paragraph = field(default_factory=_Paragraph)
    text: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    out: list[Element] = field(default_factory=list)
    info: dict[str, str] = field(default_factory=dict)
    aside: dict[str, list[str]] = field(default_factory=dict)
    fonts: dict[int, str] = field(default_factory=dict)
    styles: dict[int, str] = field(default_factory=dict)
    font: int = 0
    style: int = 0
    default: str = "cp1252"
    pending: bytearray = field(default_factory=bytearray)  # bytes of characters in a multi-byte code page
    to_skip: int = 0
    starred: bool = False
    times: dict[str, dict[str, int]] = field(default_factory=dict)


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The document's elements.

    Raises:
        Damaged: it does not begin as RTF does, or is nested beyond reason.
    """
    start = content.find(b"{\\rtf")
    if start < 0:
        raise Damaged("it does not begin with {\\rtf")
    reader = _Reader()
    for match in _tokens(content, start):
        _token(reader, match)
    _end_paragraph(reader)
    _end_table(reader)
    metadata: dict[str, Value] = {}
    if author := reader.info.get("author", "").strip():
        metadata["author"] = author
    for key, name in (("created", "creatim"), ("modified", "revtim")):
        if found := _time(reader.times.get(name, {})):
            metadata[key] = found
    if tags := reader.info.get("keywords", "").strip():
        metadata["tags"] = [part.strip() for part in tags.replace(";", ",").split(",")]
    if subject := reader.info.get("subject", "").strip():
        metadata["subject"] = subject
    return Parsed(tuple(reader.out), reader.info.get("title", ""), metadata)


def _tokens(content: bytes, start: int) -> Iterator[re.Match[bytes]]:
    position = start
    while position < len(content):
        if binary := _BINARY.match(content, position):
            position = binary.end() + int(binary.group(1))
            continue
        match = _TOKEN.match(content, position)
        if match is None:
            position += 1
            continue
        yield match
        position = match.end()


def _token(reader: _Reader, match: re.Match[bytes]) -> None:
    word, number, code, symbol, brace, text = match.groups()
    if code is not None:
        if reader.to_skip:
            reader.to_skip -= 1
        else:
            reader.pending.append(int(code, 16))
        return
    if text is not None:
        skipped = min(reader.to_skip, len(text))
        reader.to_skip -= skipped
        reader.pending += text[skipped:]
        return
    _flush_bytes(reader)
    if brace == b"{":
        if len(reader.stack) > _MAX_DEPTH:
            raise Damaged("its groups are nested too deeply")
        reader.stack.append(reader.state)
        reader.to_skip = 0
    elif brace == b"}":
        if reader.stack:
            reader.state = reader.stack.pop()
        reader.to_skip = 0
    elif symbol is not None:
        _symbol(reader, symbol.decode("latin-1"))
    elif word is not None:
        _word(reader, word.decode("ascii"), int(number) if number is not None else None)


def _symbol(reader: _Reader, symbol: str) -> None:
    if symbol == "*":
        reader.starred = True
    elif symbol in "\\{}":
        _write(reader, symbol)
    elif symbol in "~_-":
        _write(reader, _SYMBOLS[symbol])
    elif symbol in "\r\n":
        _end_paragraph(reader)


def _word(reader: _Reader, word: str, number: int | None) -> None:
    starred, reader.starred = reader.starred, False
    state = reader.state
    if word in _ASIDE or (starred and word not in ("shpinst", "ud", "upr")):
        reader.state = replace(state, destination=word)
    elif state.destination == "info" and word in (
        "title",
        "author",
        "subject",
        "keywords",
        "creatim",
        "revtim",
        "operator",
        "doccomm",
        "printim",
    ):
        reader.state = replace(state, destination=f"info:{word}")
    elif state.destination.startswith("info:") and number is not None and word in ("yr", "mo", "dy", "hr", "min"):
        reader.times.setdefault(state.destination[5:], {})[word] = number
    elif word == "u" and number is not None:
        _write(reader, chr(number + 65_536 if number < 0 else min(number, 0x10FFFF)))
        reader.to_skip = state.skip
    elif word == "uc":
        reader.state = replace(state, skip=max(number or 0, 0))
    elif word == "v":
        reader.state = replace(state, hidden=number != 0)
    elif word == "plain":
        reader.state = replace(state, hidden=False)
    elif word == "ansicpg" and number:
        reader.default = f"cp{number}"
        reader.state = replace(state, codepage=reader.default)
    elif word in ("f", "fcharset", "deff"):
        _font(reader, word, number or 0)
    elif state.destination == "stylesheet" and word == "s":
        reader.style = number or 0
    elif state.destination == "":
        _layout(reader, word, number)


def _font(reader: _Reader, word: str, number: int) -> None:
    if reader.state.destination == "fonttbl":
        if word == "f":
            reader.font = number
        elif word == "fcharset" and number in _CHARSETS:
            reader.fonts[reader.font] = f"cp{_CHARSETS[number]}" if number else reader.default
    elif word == "f":
        reader.state = replace(reader.state, codepage=reader.fonts.get(number, reader.default))


def _layout(reader: _Reader, word: str, number: int | None) -> None:
    paragraph = reader.paragraph
    match word:
        case "par" | "sect" | "page":
            _end_paragraph(reader)
        case "cell" | "nestcell":
            reader.cells.append("".join(reader.text))
            reader.text.clear()
        case "row" | "nestrow":
            if reader.cells:
                reader.rows.append(reader.cells)
                reader.cells = []
        case "pard":
            reader.paragraph = _Paragraph()
        case "intbl":
            paragraph.in_table = True
        case "s":
            paragraph.style = number or 0
        case "outlinelevel":
            paragraph.outline = number if number is not None and number < 9 else None
        case "ls" | "ilvl" | "pnlvlblt" | "pnlvlbody":
            paragraph.listed = True
        case _:
            if word in _SYMBOLS:
                _write(reader, _SYMBOLS[word])


def _write(reader: _Reader, text: str) -> None:
    destination = reader.state.destination
    if destination == "":
        if not reader.state.hidden:
            reader.text.append(text)
    elif destination.startswith("info:"):
        reader.info[destination[5:]] = reader.info.get(destination[5:], "") + text
    elif destination == "stylesheet":
        name = reader.styles.get(reader.style, "") + text
        reader.styles[reader.style] = name
        if text.endswith(";"):
            reader.style = 0


def _flush_bytes(reader: _Reader) -> None:
    if reader.pending:
        try:
            text = reader.pending.decode(reader.state.codepage, "replace")
        except LookupError:
            text = reader.pending.decode("cp1252", "replace")
        reader.pending.clear()
        _write(reader, text)


def _end_paragraph(reader: _Reader) -> None:
    _flush_bytes(reader)
    if reader.paragraph.in_table or reader.cells:
        reader.text.append("\n")
        if reader.paragraph.in_table:
            return
    text = "".join(reader.text).replace("\v", "\n")
    # surrogate pairs come as two \\u words
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    reader.text.clear()
    if not text.strip():
        return
    _end_table(reader)
    paragraph = reader.paragraph
    style = reader.styles.get(paragraph.style, "").strip("; ").lower() if paragraph.style else ""
    heading = re.match(r"heading (\d)", style)
    if heading or paragraph.outline is not None:
        level = int(heading.group(1)) if heading else (paragraph.outline or 0) + 1
        reader.out.append(Element("heading", text, level=level))
    elif style == "title":
        reader.out.append(Element("title", text))
    else:
        bullet = re.match(r"^\s*[•·]\s+", text)
        reader.out.append(
            Element(
                "list_item" if paragraph.listed or bullet else "paragraph", text[bullet.end() :] if bullet else text
            )
        )


def _end_table(reader: _Reader) -> None:
    if reader.cells:
        reader.rows.append(reader.cells)
        reader.cells = []
    if reader.rows:
        found = table([[cell.replace("\v", " ") for cell in row] for row in reader.rows])
        if found is not None:
            reader.out.append(found)
        reader.rows = []


def _time(parts: dict[str, int]) -> str | None:
    """RTF knows no time zone, so neither does the date."""
    day = f"{parts.get('yr', 0):04}-{parts.get('mo', 1):02}-{parts.get('dy', 1):02}"
    return iso(f"{day}T{parts.get('hr', 0):02}:{parts.get('min', 0):02}")
