"""Org, AsciiDoc, MediaWiki and Typst by their line marks: headings, lists, code blocks, tables, metadata lines."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.parsing.dates import iso
from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.formats.markdown import strip_tags
from pipelines.parsing.limits import Limits
from pipelines.parsing.normalise import join_lines
from pipelines.parsing.tables import Cell, table

_BLANK = re.compile(r"^\s*$")
_NEVER = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One markup language by its line marks.

    Attributes:
        heading: group 1 is the mark whose length gives the level, group 2 the text.
        level_offset: added to the mark's length; a level of 0 is the document's title.
        item: the mark of a list item.
        code_start, code_end: group 1 of the start, if any, is the language.
        table_start, table_end: lines around a table; None where its rows are known by themselves.
        row: turns a line of a table into cells; None for a line that is no row.
        field: group 1 names and group 2 is a metadata value.
        ignored: lines left out.
        inline: patterns and what replaces them.
    """

    heading: re.Pattern[str]
    level_offset: int
    item: re.Pattern[str]
    code_start: re.Pattern[str]
    code_end: re.Pattern[str]
    table_start: re.Pattern[str]
    table_end: re.Pattern[str]
    row: Callable[[str], list[Cell] | None]
    field: re.Pattern[str]
    ignored: re.Pattern[str]
    inline: tuple[tuple[re.Pattern[str], str], ...]


def _pipes(line: str) -> list[Cell] | None:
    line = line.strip()
    if not line.startswith("|") or re.match(r"^\|[-+=:| ]*$", line):
        return None
    return [Cell(cell.strip()) for cell in line.strip("|").split("|")]


def _asciidoc_row(line: str) -> list[Cell] | None:
    if not line.strip().startswith("|"):
        return None
    return [Cell(cell.strip()) for cell in line.strip()[1:].split("|")]


def _wiki_row(line: str) -> list[Cell] | None:
    line = line.strip()
    if not line.startswith(("|", "!")) or line.startswith(("|-", "|+", "|}")):
        return None
    header = line.startswith("!")
    cells = re.split(r"\|\||!!", line[1:])
    return [Cell(re.sub(r"^[^|\[\]{}]*\|(?!\|)", "", cell).strip(), header=header) for cell in cells]


_LINK = (re.compile(r"\[\[(?:[^\[\]|]*[|\]]\[?)?([^\[\]|]*)\]\]"), r"\1")
DIALECTS: dict[str, Dialect] = {
    "text/org": Dialect(
        heading=re.compile(r"^(\*+)\s+(?:(?:TODO|DONE)\s+)?(?:\[#\w\]\s+)?(.*?)(?:\s+:[\w@:]+:)?$"),
        level_offset=0,
        item=re.compile(r"^\s*(?:[-+]|\d+[.)])\s+(?:\[[ X-]\]\s+)?(?:(.*?)\s+::\s+)?"),
        code_start=re.compile(r"^\s*#\+begin_(?:src|example)\s*([\w+-]*)", re.I),
        code_end=re.compile(r"^\s*#\+end_(?:src|example)", re.I),
        table_start=_NEVER,
        table_end=_NEVER,
        row=_pipes,
        field=re.compile(r"^#\+(\w+):\s*(.*)$"),
        ignored=re.compile(r"^\s*(?:#\s.*|:\w+:.*|#\+\w+.*)$"),
        inline=(_LINK, (re.compile(r"(?<!\w)[*/_=~+](\S(?:.*?\S)?)[*/_=~+](?!\w)"), r"\1")),
    ),
    "text/asciidoc": Dialect(
        heading=re.compile(r"^(={1,6})\s+(.*?)(?:\s+=+)?$"),
        level_offset=-1,
        item=re.compile(r"^\s*(?:[*.-]+|\d+\.)\s+(?=\S)"),
        code_start=re.compile(r"^(?:-{4,}|\.{4,})$"),
        code_end=re.compile(r"^(?:-{4,}|\.{4,})$"),
        table_start=re.compile(r"^\|===$"),
        table_end=re.compile(r"^\|===$"),
        row=_asciidoc_row,
        field=re.compile(r"^:([\w-]+):\s*(.*)$"),
        ignored=re.compile(
            r"^(?://.*|\[.*\]|\.[^\s.].*|'{3,}|<{3,}|\++|={4,}|_{4,}|\*{4,}|ifdef::.*|endif::.*|include::.*|toc::.*)$"
        ),
        inline=(
            (re.compile(r"(?:https?|link|xref|mailto|image):+\S*?\[([^\]]*)\]"), r"\1"),
            (re.compile(r"(?<!\w)[*_`+]{1,2}(\S(?:.*?\S)?)[*_`+]{1,2}(?!\w)"), r"\1"),
        ),
    ),
    "text/x-mediawiki": Dialect(
        heading=re.compile(r"^(={1,6})\s*(.*?)\s*=+\s*$"),
        level_offset=0,
        item=re.compile(r"^[*#:;]+\s*(?=\S)"),
        code_start=re.compile(r"^<(?:syntaxhighlight|source|pre)(?:[^>]*lang=\"?(\w+))?[^>]*>\s*$", re.I),
        code_end=re.compile(r"^</(?:syntaxhighlight|source|pre)>", re.I),
        table_start=re.compile(r"^\{\|"),
        table_end=re.compile(r"^\|\}"),
        row=_wiki_row,
        field=_NEVER,
        ignored=re.compile(r"^(?:__\w+__|\[\[(?:Category|File|Image):.*\]\]|----+)\s*$", re.I),
        inline=(
            _LINK,
            (re.compile(r"\[https?://\S+\s+([^\]]+)\]"), r"\1"),
            (re.compile(r"'{2,5}"), ""),
            (re.compile(r"\{\{[^{}]*\}\}"), ""),
        ),
    ),
    "text/x-typst": Dialect(
        heading=re.compile(r"^(={1,6})\s+(.*?)(?:\s*<[\w:-]+>)?$"),
        level_offset=0,
        item=re.compile(r"^\s*(?:[-+]|\d+\.)\s+(?=\S)"),
        code_start=re.compile(r"^```(\w*)"),
        code_end=re.compile(r"^```\s*$"),
        table_start=_NEVER,
        table_end=_NEVER,
        row=lambda _: None,
        field=re.compile(r"^\s*(title|author|date|keywords)\s*:\s*\(?\"?([^\")]*)\"?\)?,?\s*$"),
        ignored=re.compile(r"^\s*(?://.*|#(?:set|show|let|import|include|pagebreak|outline)\b.*|\))$"),
        inline=(
            (re.compile(r"#link\(\"[^\"]*\"\)\[([^\]]*)\]"), r"\1"),
            (re.compile(r"(?<!\w)[*_`](\S(?:.*?\S)?)[*_`](?!\w)"), r"\1"),
        ),
    ),
}


def parse(content: bytes, media_type: str, _config: Limits) -> Parsed:
    """The document's elements."""
    reader = _Reader(DIALECTS[media_type])
    for line in decode(content).replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        reader.line(line)
    reader.end()
    return Parsed(tuple(reader.out), reader.title, reader.metadata)


class _Reader:
    """Takes line after line; `_block` gathers the paragraph or item that is open."""

    def __init__(self, dialect: Dialect) -> None:
        self.out: list[Element] = []
        self.title = ""
        self.metadata: dict[str, Value] = {}
        self._dialect = dialect
        self._block: list[str] = []
        self._is_item = False
        self._code: list[str] | None = None
        self._language: str | None = None
        self._rows: list[list[Cell]] = []
        self._in_table = False

    def line(self, line: str) -> None:
        """Take one more line."""
        dialect = self._dialect
        if self._code is not None:
            if dialect.code_end.match(line):
                self.out.append(Element("code", "\n".join(self._code), language=self._language))
                self._code = None
            else:
                self._code.append(line)
        elif self._in_table:
            self._table_line(line)
        elif match := dialect.code_start.match(line):
            self.end()
            self._code = []
            self._language = (match.group(1) or None) if match.re.groups else None
        elif dialect.table_start.match(line):
            self.end()
            self._in_table = True
        elif match := dialect.heading.match(line):
            self.end()
            level = len(match.group(1)) + dialect.level_offset
            text = self._inline(match.group(2))
            self.out.append(Element("heading", text, level=level) if level > 0 else Element("title", text))
        elif match := dialect.field.match(line):
            self._field(match.group(1).lower(), match.group(2).strip())
        elif _BLANK.match(line) or dialect.ignored.match(line):
            self.end()
        elif (cells := dialect.row(line)) is not None and dialect.table_start is _NEVER:
            self._end_block()
            self._rows.append([Cell(self._inline(c.text), header=c.header) for c in cells])
        elif dialect.table_start is _NEVER and self._rows and line.strip().startswith("|"):
            return  # the rule under a table's header
        elif match := dialect.item.match(line):
            self.end()
            term = match.group(1) if match.re.groups else None
            self._block = [f"{term}: {line[match.end() :]}" if term else line[match.end() :]]
            self._is_item = True
        else:
            self._end_table()
            self._block.append(line)

    def end(self) -> None:
        """End what is open."""
        self._end_block()
        self._end_table()

    def _table_line(self, line: str) -> None:
        if self._dialect.table_end.match(line):
            self._in_table = False
            self._end_table()
            return
        if line.strip().startswith("|-") and self._dialect.row is _wiki_row:
            self._rows.append([])
            return
        cells = self._dialect.row(line)
        if cells is None:
            return
        cells = [Cell(self._inline(c.text), header=c.header) for c in cells]
        if self._dialect.row is _wiki_row:
            if not self._rows:
                self._rows.append([])
            self._rows[-1].extend(cells)
        else:
            self._rows.append(cells)

    def _end_block(self) -> None:
        if self._block:
            text = self._inline(join_lines("\n".join(part.strip() for part in self._block)))
            self.out.append(Element("list_item" if self._is_item else "paragraph", text))
        self._block, self._is_item = [], False

    def _end_table(self) -> None:
        if self._rows:
            found = table(self._rows)
            if found is not None:
                self.out.append(found)
        self._rows = []

    def _field(self, name: str, value: str) -> None:
        if not value:
            return
        if name == "title":
            self.title = value
        elif name == "author":
            self.metadata["author"] = value
        elif name in ("date", "revdate") and (found := iso(value.strip("<>[] ").split(" ")[0])):
            self.metadata["created"] = found
        elif name in ("language", "lang"):
            self.metadata["language"] = value
        elif name in ("keywords", "filetags"):
            self.metadata["tags"] = [part for part in re.split(r"[,:]\s*", value) if part]

    def _inline(self, text: str) -> str:
        for pattern, replacement in self._dialect.inline:
            text = pattern.sub(replacement, text)
        return strip_tags(text) if "<" in text or "&" in text else text
