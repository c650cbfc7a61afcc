"""What a parser returns: the elements of one document, in reading order, and what is known about it.

The fields of `Element` are those of `pipelines.lake.schemas.ELEMENT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal[
    "title",  # the document's own title; at most one, no level
    "heading",  # of a section; `level` says how deep
    "paragraph",
    "list_item",  # one item; an ordered one begins with its number
    "table",  # text: one line a row, cells separated by " | "; html: the same with spans and header cells
    "code",  # line breaks and indentation as in the source
    "quote",
    "header",  # one header line of a mail or message, such as "From: A. Person <a@example.com>"
    "caption",  # of a figure or table
    "footer",  # footnotes, endnotes, speaker notes: text apart from the flow
]
KINDS: tuple[str, ...] = get_args(Kind)

Value = str | int | float | bool | None | list[str] | list[int]


@dataclass(frozen=True, slots=True)
class Element:
    """One piece of a document.

    Attributes:
        kind: one of `KINDS`.
        text: never blank in a finished parse; NFC, without control characters.
        level: depth of a heading, 1 = outermost; None for all other kinds.
        page: 1-based page or slide; None where the format has none.
        html: of a table, a `<table>` element; None for all other kinds.
        language: of a code block, as named in the source; None for all other kinds.
    """

    kind: Kind
    text: str
    level: int | None = None
    page: int | None = None
    html: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """One parsed document.

    Attributes:
        elements: in reading order.
        title: what the document itself says; may be empty, then the first title or heading element counts.
        metadata: `author`, `created`, `modified` (ISO 8601), `language` (BCP 47), `tags` (list) where the document has
            them, and further keys that a format defines.
        pages: number of pages or slides; None where the format has none.
    """

    elements: tuple[Element, ...]
    title: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    pages: int | None = None
