"""Safari web archives: the page inside, read as HTML; its pictures and scripts are left out."""

from __future__ import annotations

import plistlib

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Parsed
from pipelines.parsing.failures import Damaged, Unsupported
from pipelines.parsing.formats import html
from pipelines.parsing.limits import Limits


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """The elements of the archive's main page.

    Raises:
        Damaged: it is no web archive.
        Unsupported: the main resource is not HTML.
    """
    try:
        archive = plistlib.loads(content)
    except (plistlib.InvalidFileException, ValueError, OverflowError) as error:
        raise Damaged(f"it is no complete property list: {error}") from None
    page = archive.get("WebMainResource") if isinstance(archive, dict) else None
    data = page.get("WebResourceData") if isinstance(page, dict) else None
    if not isinstance(page, dict) or not isinstance(data, bytes):
        raise Damaged("the web archive has no main page")
    kind = page.get("WebResourceMIMEType", "text/html")
    if kind not in ("text/html", "application/xhtml+xml"):
        raise Unsupported(f"the web archive's main resource is {kind}, not HTML")
    encoding = page.get("WebResourceTextEncodingName")
    return html.parse_text(decode(data, declared=encoding if isinstance(encoding, str) else None))
