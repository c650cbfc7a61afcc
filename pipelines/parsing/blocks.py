"""A writer of elements for parsers that walk a tree: inline text gathers until a block begins or ends."""

from __future__ import annotations

from pipelines.parsing.elements import Element, Kind


class BlockWriter:
    """Collects elements. `page` may be set between blocks."""

    def __init__(self) -> None:
        self.elements: list[Element] = []
        self.page: int | None = None
        self._buffer: list[str] = []

    def text(self, text: str | None) -> None:
        """Inline text of the block that is being written."""
        if text:
            self._buffer.append(text)

    def take(self) -> str:
        """The inline text gathered so far, which is thereby used up."""
        text = "".join(self._buffer)
        self._buffer.clear()
        return text

    def flush(self, kind: Kind = "paragraph", *, level: int | None = None, prefix: str = "") -> bool:
        """End the block: its text becomes an element of this kind. Returns whether there was any text."""
        text = self.take()
        if not text.strip():
            return False
        self.elements.append(Element(kind, prefix + text.strip() if prefix else text, level=level, page=self.page))
        return True

    def add(self, element: Element | None) -> None:
        """A finished element; None is ignored."""
        if element is not None:
            self.elements.append(element)
