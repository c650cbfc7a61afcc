"""Which parser reads which media type, and the fingerprint of that parser.

A parser is a function `parse(content, media_type, config) -> Parsed` in a module of `formats`; it runs in a worker
process and raises a `failures.ParseFailure` for a document it cannot read. Nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from platform import python_version_tuple

from pipelines.identity import fingerprint
from pipelines.installed import version_of
from pipelines.parsing.limits import Limits
from pipelines.parsing.media_types import RECORD, code_language
from pipelines.parsing.refusals import explain

COMMON_VERSION = 1  # of what all formats share: normalisation, titles, tables


@dataclass(frozen=True, slots=True)
class Route:
    """One parser.

    Attributes:
        module: in `pipelines.parsing.formats`.
        version: raised whenever its output changes for the same bytes.
        libraries: distributions that influence the output; "python" for the standard library's readers.
    """

    module: str
    version: int = 1
    libraries: tuple[str, ...] = ()


_HTML = ("lxml", "charset-normalizer")
_PDF = Route("pdf", 1, ("pypdfium2",))
_DOCX = Route("docx", 1, ("unstructured", "python-docx", "lxml", "spacy"))
_PPTX = Route("pptx", 1, ("python-pptx", "lxml"))
_SHEET = Route("spreadsheet", 1, ("python-calamine", "lxml"))
_ODF = Route("opendocument", 1, ("lxml",))
_OLE = Route("ole", 1, ("olefile", "python-oxmsg", "python-calamine", "lxml", "charset-normalizer"))
_MARKDOWN = Route("markdown", 1, ("markdown-it-py", "pyyaml", *_HTML))
_XML = Route("xml", 1, _HTML)
_TEXT = Route("text", 1, ("charset-normalizer",))
_DELIMITED = Route("delimited", 1, ("charset-normalizer", "python"))
_JSON = Route("structured", 1, ("charset-normalizer", "python"))
_MAIL = Route("mail", 1, (*_HTML, "python"))
_LIGHT = Route("lightweight", 1, ("charset-normalizer",))
_SUBTITLES = Route("subtitles", 1, ("charset-normalizer",))
_CODE = Route("code", 1, ("charset-normalizer",))

ROUTES: dict[str, Route] = {
    RECORD: Route("record"),
    "application/pdf": _PDF,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": _DOCX,
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": _PPTX,
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": _SHEET,
    "application/vnd.ms-excel.sheet.binary.macroenabled.12": _SHEET,
    "application/vnd.oasis.opendocument.spreadsheet": _SHEET,
    "application/vnd.oasis.opendocument.spreadsheet-template": _SHEET,
    **dict.fromkeys(
        (
            f"application/vnd.oasis.opendocument.{kind}"
            for kind in ("text", "text-template", "text-master", "presentation", "presentation-template", "graphics")
        ),
        _ODF,
    ),
    **dict.fromkeys(
        (
            "application/msword",
            "application/vnd.ms-excel",
            "application/vnd.ms-powerpoint",
            "application/vnd.ms-outlook",
            "application/x-ole-storage",
        ),
        _OLE,
    ),
    "application/vnd.ms-visio.drawing": Route("visio", 1, ("lxml",)),
    "application/epub+zip": Route("epub", 1, ("lxml",)),
    "application/rtf": Route("rtf"),
    "text/markdown": _MARKDOWN,
    "text/html": Route("html", 1, _HTML),
    "application/xhtml+xml": Route("html", 1, _HTML),
    "application/x-webarchive": Route("webarchive", 1, (*_HTML, "python")),
    **dict.fromkeys(
        (
            "application/xml",
            "image/svg+xml",
            "application/x-fictionbook+xml",
            "text/x-opml",
            "application/atom+xml",
            "application/rss+xml",
            "application/vnd.google-earth.kml+xml",
        ),
        _XML,
    ),
    "text/plain": _TEXT,
    "text/csv": _DELIMITED,
    "text/tab-separated-values": _DELIMITED,
    "application/json": _JSON,
    "application/x-ndjson": _JSON,
    "application/x-ipynb+json": Route("notebook", 1, ("markdown-it-py", "pyyaml", *_HTML)),
    "message/rfc822": _MAIL,
    "application/mbox": _MAIL,
    "text/x-rst": Route("restructured", 1, ("docutils", "charset-normalizer")),
    **dict.fromkeys(("text/org", "text/asciidoc", "text/x-mediawiki", "text/x-typst"), _LIGHT),
    "application/x-tex": Route("latex", 1, ("charset-normalizer",)),
    **dict.fromkeys(("application/x-subrip", "text/vtt"), _SUBTITLES),
    **dict.fromkeys(("text/calendar", "text/vcard"), Route("calendar", 1, ("charset-normalizer",))),
}


def route_for(media_type: str) -> Route | None:
    """The parser of a media type; None where there is none (`refusals.explain` says why)."""
    found = ROUTES.get(media_type)
    return _CODE if found is None and code_language(media_type) is not None else found


@cache
def _version(library: str) -> str:
    from importlib.metadata import PackageNotFoundError

    if library == "python":
        return ".".join(python_version_tuple()[:2])
    try:
        return version_of(library)
    except PackageNotFoundError:
        return "absent"


def parser_fp(media_type: str, config: Limits) -> str:
    """Fingerprint of everything that decides what parsing such a document returns: 32 hex digits.

    In it: the parser's and the shared code's version, its libraries' versions, and the limits that a document's size
    is held against. Not in it: time, memory and the number of workers, which depend on the machine; a document that
    passes one of those is marked `transient` instead.
    """
    route = route_for(media_type)
    inputs: dict[str, object] = {
        "media_type": media_type,
        "common": COMMON_VERSION,
        "max_unpacked_bytes": config.max_unpacked_bytes,
        "max_compression_ratio": config.max_compression_ratio,
        "max_archive_entries": config.max_archive_entries,
        "max_characters": config.max_characters,
    }
    if route is None:
        inputs["refused"] = explain(media_type)
    else:
        inputs["route"] = (route.module, route.version)
        inputs["libraries"] = tuple((library, _version(library)) for library in route.libraries)
    return fingerprint("parser", inputs)
