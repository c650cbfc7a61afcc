"""Markdown (CommonMark with tables) with YAML front matter. Embedded HTML blocks are read as HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from html import unescape
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipelines.parsing.dates import iso
from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Kind, Parsed, Value
from pipelines.parsing.formats import html
from pipelines.parsing.limits import Limits
from pipelines.parsing.tables import Cell, table

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_TOML_FRONT_MATTER = re.compile(r"\A\+\+\+[ \t]*\n(.*?)\n\+\+\+[ \t]*(?:\n|\Z)", re.S)
_MAX_FRONT_MATTER = 64 * 1024  # characters; longer is no front matter
_ATTRIBUTES = re.compile(r"\s*\{[#.][^{}]*\}\s*$")  # heading anchors and classes: {#install}
_TAG = re.compile(r"<[^>]+>")
_BREAK = re.compile(r"<br\s*/?>", re.I)
_WORD = re.compile(r"[\w+#.-]+")


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The document's elements; front matter becomes metadata."""
    return parse_text(decode(content))


def parse_text(text: str) -> Parsed:
    """As `parse`, of text that is decoded already."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    fields, body = front_matter(text)
    title, metadata = describe(fields)
    return Parsed(tuple(elements(body)), title, metadata)


def front_matter(text: str) -> tuple[Mapping[str, Any], str]:
    """The fields of the YAML or TOML block at the top, and the text after it; text without such a block is all body."""
    for pattern, load in ((_FRONT_MATTER, yaml.safe_load), (_TOML_FRONT_MATTER, _toml)):
        match = pattern.match(text)
        if match is None or len(match.group(1)) > _MAX_FRONT_MATTER:
            continue
        try:
            fields = load(match.group(1))
        except (yaml.YAMLError, ValueError, RecursionError):
            return {}, text[match.end() :]  # broken front matter is still no prose
        if isinstance(fields, dict):
            return {str(key).lower(): value for key, value in fields.items()}, text[match.end() :]
    return {}, text


def _toml(text: str) -> Any:
    import tomllib

    return tomllib.loads(text)


def describe(fields: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    """Title and metadata from front matter's fields; nested values other than lists of words are left out."""
    metadata: dict[str, Value] = {}
    author = fields.get("author", fields.get("authors"))
    if names := _words(author):
        metadata["author"] = "; ".join(names)
    for key, sources in (
        ("created", ("date", "created", "published")),
        ("modified", ("lastmod", "updated", "modified")),
    ):
        for source in sources:
            if found := iso(fields.get(source)):
                metadata.setdefault(key, found)
    for key in ("lang", "language", "locale"):
        if isinstance(fields.get(key), str):
            metadata.setdefault("language", fields[key])
    tags = [*_words(fields.get("tags")), *_words(fields.get("keywords")), *_words(fields.get("categories"))]
    if tags:
        metadata["tags"] = tags
    if isinstance(fields.get("description"), str):
        metadata["description"] = fields["description"]
    title = fields.get("title")
    return (str(title) if isinstance(title, str | int | float) else ""), metadata


def _words(value: object) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Mapping):
        return _words(value.get("name"))
    if isinstance(value, Sequence):
        return [word for item in value[:100] if isinstance(item, str | Mapping | int) for word in _one(item)]
    return []


def _one(item: object) -> list[str]:
    return _words(item.get("name")) if isinstance(item, Mapping) else [str(item).strip()]


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"maxNesting": 40}).enable(["table", "strikethrough"])


def elements(text: str) -> list[Element]:
    """The elements of Markdown without front matter."""
    return _Reader(_parser().parse(text)).read()


class _Reader:
    """Goes through the token list once, keeping the open lists and quotes."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._out: list[Element] = []
        self._ordinals: list[int | None] = []  # open lists; the next number of an ordered one
        self._prefix = ""  # of the next paragraph in an ordered list
        self._quotes = 0
        self._html: list[str] = []  # consecutive HTML blocks, which may belong together

    def read(self) -> list[Element]:
        index = 0
        while index < len(self._tokens):
            token = self._tokens[index]
            if token.type != "html_block":
                self._flush_html()
            if token.type == "table_open":
                index = self._table(index)
            elif token.type == "heading_open":
                text = _ATTRIBUTES.sub("", _inline(self._tokens[index + 1]))
                self._out.append(Element("heading", text, level=int(token.tag[1])))
                index += 2
            else:
                self._token(token)
            index += 1
        self._flush_html()
        return self._out

    def _token(self, token: Token) -> None:
        match token.type:
            case "inline":
                self._paragraph(_inline(token))
            case "fence" | "code_block":
                language = _WORD.match(token.info.strip().lstrip("{."))
                self._out.append(Element("code", token.content, language=language.group() if language else None))
            case "html_block":
                self._html.append(token.content)
            case "bullet_list_open":
                self._ordinals.append(None)
            case "ordered_list_open":
                self._ordinals.append(int(token.attrGet("start") or 1))
            case "bullet_list_close" | "ordered_list_close":
                self._ordinals.pop()
                self._prefix = ""
            case "list_item_open":
                self._prefix = ""
                ordinal = self._ordinals[-1]
                if ordinal is not None:
                    self._prefix = f"{ordinal}. "
                    self._ordinals[-1] = ordinal + 1
            case "blockquote_open":
                self._quotes += 1
            case "blockquote_close":
                self._quotes -= 1

    def _paragraph(self, text: str) -> None:
        kind: Kind = "list_item" if self._ordinals else "quote" if self._quotes else "paragraph"
        prefix, self._prefix = self._prefix, ""
        if text.strip():
            self._out.append(Element(kind, prefix + text))

    def _flush_html(self) -> None:
        if self._html:
            self._out.extend(html.fragment("".join(self._html)))
            self._html = []

    def _table(self, index: int) -> int:
        """The table that begins at `index`; returns the index of its end."""
        rows: list[list[Cell]] = []
        while self._tokens[index].type != "table_close":
            token = self._tokens[index]
            if token.type == "tr_open":
                rows.append([])
            elif token.type in ("th_open", "td_open"):
                rows[-1].append(Cell(_inline(self._tokens[index + 1]), header=token.type == "th_open"))
            index += 1
        if (found := table(rows)) is not None:
            self._out.append(found)
        return index


def _inline(token: Token) -> str:
    """Text without markup: links and images by their words, line breaks of the source as spaces."""
    parts = []
    for child in token.children or ():
        match child.type:
            case "text" | "code_inline":
                parts.append(child.content)
            case "softbreak":
                parts.append(" ")
            case "hardbreak":
                parts.append("\n")
            case "image":
                parts.append(_inline(child))
            case "html_inline":
                parts.append("\n" if _BREAK.match(child.content) else "")
    return "".join(parts)


def strip_tags(text: str) -> str:
    """`text` without HTML tags and with character references resolved."""
    return unescape(_TAG.sub("", text))
