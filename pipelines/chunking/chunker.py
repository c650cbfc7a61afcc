"""Documents become chunks: texts that the encoder takes whole, each knowing where in its document it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipelines.chunking.context import context_line
from pipelines.chunking.layout import ElementLike, Layout, common_section, lay_out, one_line
from pipelines.chunking.packing import Range, divide, pack
from pipelines.chunking.units import Limit, Unit, units_of
from pipelines.config import ChunkingConfig
from pipelines.embedding.tokenizer import Tokenizer

_CONTEXT_SHARE = 4  # the context takes at most one part in so many
_CHARACTERS_A_TOKEN = 8  # English has about five; more is data, or a script that the model does not know
_MOST_CHARACTERS = 16_000  # four bytes each stay below the 65,535 that an index field takes
_NOT_ADDITIVE_RESERVE = 4  # tokens that joining may add where a tokenizer's counts do not add up
_TITLES = ("title", "heading")
_KINDS = {"table": "table", "code": "code", "list_item": "list"}


class Chunk(NamedTuple):
    """One chunk. `text[body_start:]` is its body; what comes before is context, ended by a line end."""

    text: str
    body_start: int
    kind: str  # text | table | code | list
    heading_path: tuple[str, ...]  # of the innermost section that contains all of it
    section: int  # that section's ordinal, 0 = before any heading
    char_start: int  # half-open span in `document_text`; a repeated table header is not part of it
    char_end: int
    pages: tuple[int, ...]  # ascending
    tokens: int  # of `text`, special tokens included


class _Context(NamedTuple):
    text: str
    size: Limit  # with its line end


class Chunker:
    """Divides documents by one configuration and one tokenizer."""

    def __init__(self, config: ChunkingConfig, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._with_context = config.heading_context
        tokens = min(config.max_tokens or tokenizer.max_tokens, tokenizer.max_tokens) - tokenizer.special_tokens
        self._chunk = Limit(tokens, min(tokens * _CHARACTERS_A_TOKEN, _MOST_CHARACTERS))
        share = _CONTEXT_SHARE if config.heading_context else tokens + 1
        self._context = Limit(tokens // share, self._chunk.characters // share)
        reserve = 0 if tokenizer.additive else _NOT_ADDITIVE_RESERVE
        self._unit = Limit(
            max(1, tokens - self._context.tokens - reserve), self._chunk.characters - self._context.characters - 1
        )

    def chunks(self, title: str, elements: Sequence[ElementLike]) -> list[Chunk]:
        """The chunks of one document, in order; at least one where any element has visible text.

        Together their spans hold every character of `document_text(elements)` but white space, each once.
        """
        layout = lay_out(elements)
        units = units_of(layout, self._tokenizer, self._unit)
        known: dict[tuple[str, ...], _Context] = {}
        contexts = [self._context_of(title, layout, unit, known) for unit in units]
        found: list[Chunk] = []
        for part in divide(layout.text, units, self._chunk):
            overhead = [
                Limit(
                    contexts[i].size.tokens + units[i].header_tokens, contexts[i].size.characters + len(units[i].header)
                )
                for i in range(*part)
            ]
            for span in pack(units, part, overhead, self._chunk):
                found += self._made(layout, units, span, contexts)
        return found

    def _context_of(self, title: str, layout: Layout, unit: Unit, known: dict[tuple[str, ...], _Context]) -> _Context:
        """What stands above a chunk that begins with this unit; a heading inside the body is not said twice."""
        if not self._with_context:
            return _Context("", Limit(0, 0))
        section = layout.sections[unit.section]
        parts = (title, *section.path)
        if unit.kind in _TITLES:
            parts = parts[:-1]
            if not parts[1:] and one_line(title).casefold() == section.path[-1].casefold():
                parts = ()
        if parts not in known:
            line = context_line(parts, self._context, lambda text: self._tokenizer.count_bare([text])[0])
            tokens = self._tokenizer.count_bare([line])[0] if line else 0
            known[parts] = _Context(line + "\n" if line else "", Limit(tokens, len(line) + 1))
        return known[parts]

    def _made(
        self, layout: Layout, units: Sequence[Unit], span: Range, contexts: Sequence[_Context]
    ) -> Iterator[Chunk]:
        """The chunk of these units; several, where joining them makes more tokens than they have alone."""
        lo, hi = span
        first, last = units[lo], units[hi - 1]
        context = contexts[lo]
        body = layout.text[first.start : last.end]
        if first.header:
            body = f"{first.header}\n{body}"
        text = context.text + body
        if self._tokenizer.additive and not any(units[i].tight for i in range(lo + 1, hi)):
            bare = context.size.tokens + first.header_tokens + sum(units[i].tokens for i in range(lo, hi))
        else:
            bare = self._tokenizer.count_bare([text])[0]
        if bare > self._chunk.tokens and hi - lo > 1:
            middle = (lo + hi) // 2
            yield from self._made(layout, units, (lo, middle), contexts)
            yield from self._made(layout, units, (middle, hi), contexts)
            return
        if bare > self._chunk.tokens:  # only where counts do not add up: the unit alone fits
            context, text = _Context("", Limit(0, 0)), layout.text[first.start : last.end]
            bare = self._tokenizer.count_bare([text])[0]
        section = common_section(layout.sections, {units[i].section for i in range(lo, hi)})
        yield Chunk(
            text,
            len(context.text),
            _kind(units, span),
            section.path,
            section.ordinal,
            first.start,
            last.end,
            _pages(units, span),
            bare + self._tokenizer.special_tokens,
        )


def _kind(units: Sequence[Unit], span: Range) -> str:
    kinds = {units[i].kind for i in range(*span)}.difference(_TITLES)
    return _KINDS.get(kinds.pop(), "text") if len(kinds) == 1 else "text"


def _pages(units: Sequence[Unit], span: Range) -> tuple[int, ...]:
    return tuple(sorted({page for i in range(*span) if (page := units[i].page) is not None}))
