"""Source code and configuration: one code element that names its language."""

from __future__ import annotations

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.limits import Limits
from pipelines.parsing.media_types import code_language


def parse(content: bytes, media_type: str, _config: Limits) -> Parsed:
    """The whole file as it is."""
    return Parsed((Element("code", decode(content), language=code_language(media_type)),))
