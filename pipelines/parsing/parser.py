"""One parse, inside a worker: the route's parser, then what all formats share: cleaning, title, limits, true errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from typing import cast

from pipelines.parsing.elements import Element, Parsed, Value
from pipelines.parsing.failures import Damaged, ParseFailure, TooLarge, Unreadable, Unsupported
from pipelines.parsing.limits import Limits
from pipelines.parsing.normalise import flow, one_line, preformatted
from pipelines.parsing.refusals import explain
from pipelines.parsing.routes import route_for

Parser = Callable[[bytes, str, Limits], Parsed]

_MAX_TITLE = 300  # characters; longer is a paragraph in a title's place
_MAX_VALUE = 2_000  # characters of one metadata value
_MAX_LIST = 100
_TITLE_WITHIN = 10  # a title that the metadata does not give must be among the first elements


def load(media_type: str) -> Parser | None:
    """The parser of a media type with everything it imports; None where there is none."""
    route = route_for(media_type)
    if route is None:
        return None
    module = import_module(f"pipelines.parsing.formats.{route.module}")
    if (prepare := getattr(module, "prepare", None)) is not None:
        prepare()
    return cast("Parser", module.parse)


def parse(content: bytes, media_type: str, config: Limits) -> Parsed:
    """The elements of a document; none at all when it has no text.

    Raises:
        ParseFailure: it cannot be read; the class and the message say why.
        MemoryError: it needs more memory than there is.
    """
    if not content.strip(b"\x00 \t\r\n"):
        return Parsed(())
    parser = load(media_type)
    if parser is None:
        raise Unsupported(f"{media_type} is not parsed: {explain(media_type)}")
    try:
        return finish(parser(content, media_type, config), config)
    except (ParseFailure, MemoryError):
        raise
    except RecursionError:
        raise Damaged(f"it is nested too deeply to be read as {media_type}; no reasonable document is") from None
    except Exception as error:  # the boundary: a library's error on a damaged document is of any class
        raise _unreadable(media_type, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # what a Rust library raises is no Exception
            raise
        raise _unreadable(media_type, error) from None


def _unreadable(media_type: str, error: BaseException) -> Unreadable:
    return Unreadable(
        f"the parser of {media_type} gave up ({type(error).__name__}: {_short(str(error))}); "
        "the document may be damaged, or of a variant that the parser does not know"
    )


def finish(parsed: Parsed, config: Limits) -> Parsed:
    """The same document with clean text, without blank elements, with a title where one can be found.

    Raises:
        TooLarge: it has more text than `config.max_characters`.
    """
    elements, characters = [], 0
    for element in _clean(parsed.elements):
        characters += len(element.text)
        if characters > config.max_characters:
            raise TooLarge(
                f"it has more than {config.max_characters:,} characters of text (parsing.max_characters); "
                "split the document, or raise the limit"
            )
        elements.append(element)
    title = one_line(parsed.title)[:_MAX_TITLE] or _title(elements)
    return Parsed(tuple(elements), title, _metadata(parsed.metadata), parsed.pages)


def _clean(elements: Iterable[Element]) -> Iterator[Element]:
    titled = False
    for element in elements:
        if element.kind == "code":
            text = preformatted(element.text)
        elif element.kind in ("title", "heading", "header", "caption"):
            text = one_line(element.text)
        else:
            text = flow(element.text)
        if not text:
            continue
        if element.kind == "title":
            if titled:
                element = replace(element, kind="heading", level=1)
            titled = True
        yield element if text is element.text else replace(element, text=text)


def _title(elements: list[Element]) -> str:
    first = elements[:_TITLE_WITHIN]
    candidates = [e for e in first if e.kind == "title"] or [e for e in first if e.kind == "heading"]
    if not candidates:
        return ""
    best = min(candidates, key=lambda e: e.level or 0)
    return best.text if len(best.text) <= _MAX_TITLE else ""


def _metadata(raw: Mapping[str, Value]) -> dict[str, Value]:
    """Values worth keeping: no blanks, bounded, tags sorted and without duplicates."""
    out: dict[str, Value] = {}
    for key, value in raw.items():
        kept: Value = value
        if isinstance(value, str):
            kept = one_line(value)[:_MAX_VALUE]
        elif isinstance(value, list):
            texts = [one_line(item)[:_MAX_VALUE] if isinstance(item, str) else item for item in value]
            kept = cast("Value", list(dict.fromkeys(item for item in texts if item not in ("", None)))[:_MAX_LIST])
        elif isinstance(value, float) and value != value:
            continue
        if kept not in ("", None, []):
            out[key] = kept
    return out


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."
