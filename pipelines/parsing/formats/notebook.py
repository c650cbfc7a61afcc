"""Jupyter notebooks: Markdown cells as Markdown, code cells as code, and what they printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.failures import Damaged
from pipelines.parsing.formats import html, markdown
from pipelines.parsing.limits import Limits


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The notebook's cells in order; pictures are left out.

    Raises:
        Damaged: it is not a notebook.
    """
    try:
        notebook = json.loads(decode(content))
    except ValueError as error:
        raise Damaged(f"the notebook is not valid JSON: {error}") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise Damaged("the notebook has no cells; expected nbformat 4")
    metadata = _dict(notebook.get("metadata"))
    language = _dict(metadata.get("kernelspec")).get("language") or _dict(metadata.get("language_info")).get("name")
    language = language if isinstance(language, str) else None
    out: list[Element] = []
    for cell in notebook["cells"]:
        out.extend(_cell(_dict(cell), language))
    known: dict[str, Value] = {"author": _authors(metadata)} if _authors(metadata) else {}
    title = metadata.get("title")
    return Parsed(tuple(out), title if isinstance(title, str) else "", known)


def _cell(cell: dict[str, Any], language: str | None) -> Iterator[Element]:
    source = _text(cell.get("source"))
    if cell.get("cell_type") == "markdown":
        yield from markdown.elements(source)
    elif cell.get("cell_type") == "code":
        yield Element("code", source, language=language)
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else ():
            yield from _output(_dict(output))
    else:
        yield Element("paragraph", source)


def _output(output: dict[str, Any]) -> Iterator[Element]:
    data = _dict(output.get("data"))
    if "text/html" in data:
        yield from html.fragment(_text(data["text/html"]))
    elif "text/markdown" in data:
        yield from markdown.elements(_text(data["text/markdown"]))
    else:
        yield Element("code", _text(output.get("text", data.get("text/plain"))))


def _authors(metadata: dict[str, Any]) -> str:
    authors = metadata.get("authors")
    names = [_dict(author).get("name") for author in authors] if isinstance(authors, list) else []
    return "; ".join(name for name in names if isinstance(name, str))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
