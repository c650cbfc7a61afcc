"""LaTeX: sections, paragraphs, lists, tables and verbatim blocks; formulas stay as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Kind, Parsed, Value
from pipelines.parsing.limits import Limits
from pipelines.parsing.tables import Cell, table

_COMMENT = re.compile(r"(?<!\\)%.*")
_LEVELS = {
    "part": 1,
    "chapter": 1,
    "section": 1,
    "subsection": 2,
    "subsubsection": 3,
    "paragraph": 4,
    "subparagraph": 5,
}
_SECTION = re.compile(r"\\(part|chapter|(?:sub){0,2}section|(?:sub)?paragraph)\*?\s*(?:\[[^\]]*\]\s*)?(?=\{)")
_BEGIN = re.compile(r"\\begin\s*\{([A-Za-z*]+)\}")
_VERBATIM = ("verbatim", "lstlisting", "minted", "Verbatim", "alltt")
_TABULAR = ("tabular", "tabularx", "longtable", "tabulary", "array")
_LISTS = ("itemize", "enumerate", "description")
_QUOTES = ("quote", "quotation", "verse")
_DROPPED = ("tikzpicture", "pgfpicture", "filecontents", "comment", "CCSXML")
_KEEP_ARGUMENT = re.compile(
    r"\\(?:text\w*|emph|underline|mbox|textsuperscript|textsubscript|uppercase|MakeUppercase|footnote|href\{[^{}]*\}|url|title|author|"
    r"caption|centerline|noindent|hbox|fbox|multicolumn\{[^{}]*\}\{[^{}]*\}|multirow\{[^{}]*\}\{[^{}]*\}|section\*?)\s*(?:\[[^\]]*\])?\{([^{}]*)\}"
)
_DROP_ARGUMENT = re.compile(
    r"\\(?:label|cite\w*|ref|eqref|autoref|cref|Cref|pageref|vspace\*?|hspace\*?|includegraphics|bibliography\w*|usepackage|documentclass|input|include|"
    r"setlength|renewcommand|newcommand|providecommand|def|pagestyle|thispagestyle|setcounter|addtocounter|vskip|hskip|index|thanks|rowcolor|cellcolor|"
    r"color|cmidrule|cline|definecolor|hypersetup|newtheorem|DeclareMathOperator|bibitem|date)\*?\s*(?:\([^)]*\))?(?:\[[^\]]*\])*\s*(?:\{[^{}]*\})*"
)
_COMMAND = re.compile(r"\\[A-Za-z@]+\*?(?:\[[^\]]*\])?")
_ACCENTS = {
    "`": "\u0300",
    "'": "\u0301",
    "^": "\u0302",
    '"': "\u0308",
    "~": "\u0303",
    "=": "\u0304",
    ".": "\u0307",
    "c": "\u0327",
    "v": "\u030c",
}
_ACCENT = re.compile(r"\\([`'^\"~=.])\s*(?:\{\\?([A-Za-z])\}|\\?([A-Za-z]))|\\([cv])\{([A-Za-z])\}")
_SYMBOLS = {
    "\\ss": "ß",
    "\\ae": "æ",
    "\\AE": "Æ",
    "\\o": "ø",
    "\\O": "Ø",
    "\\aa": "å",
    "\\AA": "Å",
    "\\ldots": "…",
    "\\dots": "…",
    "\\S": "§",
}
_SYMBOL = re.compile(r"\\(?:ss|ae|AE|o|O|aa|AA|ldots|dots|S)(?![A-Za-z])\s?(?:\{\})?")
_ESCAPES = re.compile(r"\\([%$&#_{} ])")
_MATH = re.compile(r"\$\$.+?\$\$|\$[^$]+?\$|\\\(.+?\\\)|\\\[.+?\\\]", re.S)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?|\\tabularnewline")
_MAX_DEPTH = 30


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The document's elements; of a file without a document body, all of it."""
    text = decode(content).replace("\r\n", "\n").replace("\r", "\n")
    verbatim_free = _COMMENT.sub("", text)
    title, author = _argument(verbatim_free, "title"), _argument(verbatim_free, "author")
    start = re.search(r"\\begin\s*\{document\}", text)
    end = text.rfind("\\end{document}")
    body = text[start.end() : end if end > 0 else None] if start else text
    out = [Element("title", _plain(title))] if title else []
    out += _blocks(body, 0, "paragraph")
    metadata: dict[str, Value] = {"author": _plain(re.sub(r"\\and\b|\\\\", "; ", author))} if author else {}
    return Parsed(tuple(out), _plain(title), metadata)


def _argument(text: str, command: str) -> str:
    match = re.search(rf"\\{command}\s*(?:\[[^\]]*\]\s*)?(?=\{{)", text)
    return _braced(text, match.end())[0] if match else ""


def _braced(text: str, start: int) -> tuple[str, int]:
    """The content of the braces that open at `start`, and where they end."""
    depth = 0
    for index in range(start, min(len(text), start + 100_000)):
        if text[index] == "{" and (index == 0 or text[index - 1] != "\\"):
            depth += 1
        elif text[index] == "}" and text[index - 1] != "\\":
            depth -= 1
            if depth == 0:
                return text[start + 1 : index], index + 1
    return "", start + 1


def _blocks(text: str, depth: int, kind: Kind) -> Iterator[Element]:
    position = 0
    while position < len(text):
        section, begin = _SECTION.search(text, position), _BEGIN.search(text, position)
        following = min((m for m in (section, begin) if m), key=lambda m: m.start(), default=None)
        yield from _paragraphs(text[position : following.start() if following else None], kind)
        if following is None:
            return
        if following is section:
            heading, position = _braced(text, following.end())
            yield Element("heading", _plain(heading), level=_LEVELS[following.group(1)])
            continue
        name = following.group(1)
        end = _end_of(text, name, following.end())
        inner = text[following.end() : end]
        position = end + len(f"\\end{{{name}}}")
        if depth < _MAX_DEPTH:
            yield from _environment(name, inner, depth + 1, kind)


def _end_of(text: str, name: str, start: int) -> int:
    """Where the environment that began before `start` ends."""
    pattern = re.compile(rf"\\(begin|end)\s*\{{{re.escape(name)}\}}")
    depth = 1
    for match in pattern.finditer(text, start):
        depth += 1 if match.group(1) == "begin" else -1
        if depth == 0:
            return match.start()
    return len(text)


def _environment(name: str, inner: str, depth: int, kind: Kind) -> Iterator[Element]:
    plain = name.rstrip("*")
    if plain in _DROPPED:
        return
    if plain in _VERBATIM:
        match = re.match(r"\s*(?:\[[^\]]*language=(\w+)[^\]]*\]|\[[^\]]*\])?\s*(?:\{(\w+)\})?", inner)
        language = (match.group(1) or (match.group(2) if plain == "minted" else None)) if match else None
        yield Element("code", inner[match.end() :] if match and plain != "verbatim" else inner, language=language)
    elif plain in _TABULAR:
        yield from _tabular(inner)
    elif plain in _LISTS:
        yield from _items(inner, depth, ordered=plain == "enumerate")
    elif plain in ("figure", "table", "wrapfigure", "subfigure", "algorithm"):
        inner = re.sub(r"^\s*\[[^\]]*\]", "", inner)
        caption = _argument(inner, "caption")
        if caption:
            yield Element("caption", _plain(caption))
        match = re.search(r"\\caption\s*(?:\[[^\]]*\]\s*)?(?=\{)", inner)
        rest = inner if match is None else inner[: match.start()] + inner[_braced(inner, match.end())[1] :]
        yield from _blocks(rest, depth, kind)
    elif plain in ("equation", "align", "eqnarray", "gather", "multline", "displaymath", "math"):
        yield Element("paragraph", " ".join(re.sub(r"\\label\{[^}]*\}", "", _COMMENT.sub("", inner)).split()))
    elif plain == "abstract":
        yield Element("heading", "Abstract", level=1)
        yield from _blocks(inner, depth, kind)
    else:
        yield from _blocks(inner, depth, "quote" if plain in _QUOTES else kind)


def _items(inner: str, depth: int, *, ordered: bool) -> Iterator[Element]:
    for number, part in enumerate(_split_items(inner), 1):
        label = re.match(r"\s*\[([^\]]*)\]", part)
        prefix = f"{number}. " if ordered else f"{_plain(label.group(1))} " if label else ""
        for element in _blocks(part[label.end() :] if label else part, depth, "list_item"):
            yield (
                Element(
                    element.kind, prefix + element.text, element.level, element.page, element.html, element.language
                )
                if prefix
                else element
            )
            prefix = ""


def _split_items(inner: str) -> Iterator[str]:
    """The parts after each item mark of this list, not of lists inside it."""
    level, start = 0, None
    for match in re.finditer(r"\\(begin|end)\s*\{(?:itemize|enumerate|description)\}|\\item\b", inner):
        if match.group(1):
            level += 1 if match.group(1) == "begin" else -1
        elif level == 0:
            if start is not None:
                yield inner[start : match.start()]
            start = match.end()
    if start is not None:
        yield inner[start:]


def _tabular(inner: str) -> Iterator[Element]:
    inner = re.sub(r"^\s*(?:\[[^\]]*\])?(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}\s*)+", "", _COMMENT.sub("", inner), count=1)
    rows = []
    for line in _ROW_END.split(inner):
        cells = []
        for raw in re.split(r"(?<!\\)&", line):
            span = re.search(r"\\multicolumn\{(\d{1,2})\}", raw)
            cells.append(Cell(_plain(raw), int(span.group(1)) if span else 1))
        rows.append(cells)
    if (found := table(rows)) is not None:
        yield found


def _paragraphs(text: str, kind: Kind) -> Iterator[Element]:
    text = re.sub(r"\\(?:maketitle|tableofcontents|newpage|clearpage|par)\b", "\n\n", _COMMENT.sub("", text))
    for part in re.split(r"\n\s*\n", text):
        plain = _plain(part)
        if any(map(str.isalnum, plain)):
            yield Element(kind, plain)


def _plain(text: str) -> str:
    """Text without commands; formulas are put aside meanwhile, so that they stay as they are."""
    formulas: list[str] = []

    def aside(match: re.Match[str]) -> str:
        formulas.append(match.group())
        return f"\x00{len(formulas) - 1}\x00"

    text = _MATH.sub(aside, _COMMENT.sub("", text))
    text = _SYMBOL.sub(lambda m: _SYMBOLS[m.group().rstrip(" {}")], text)
    text = _ACCENT.sub(_accented, text)
    for _ in range(6):  # arguments inside arguments
        before = text
        text = _KEEP_ARGUMENT.sub(r"\1", _DROP_ARGUMENT.sub("", text))
        if text == before:
            break
    text = _ROW_END.sub("\n", text)
    text = _ESCAPES.sub(r"\1", text)
    text = _COMMAND.sub("", text)
    text = text.replace("~", " ").replace("``", "“").replace("''", "”").replace("---", "—").replace("--", "–")
    text = re.sub(r"[{}]", "", text)
    text = re.sub(r"\x00(\d+)\x00", lambda m: formulas[int(m.group(1))], text)
    return " ".join(text.split())


def _accented(match: re.Match[str]) -> str:
    accent, letter = (
        (match.group(4), match.group(5)) if match.group(4) else (match.group(1), match.group(2) or match.group(3))
    )
    return letter + _ACCENTS[accent]
