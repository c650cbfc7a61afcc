"""Source code and configuration: one code element that names its language."""

from __future__ import annotations

from pipelines.config import ParsingConfig
from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.media_types import code_language


def parse(content: bytes, media_type: str, _config: ParsingConfig) -> Parsed:
    """The whole file as it is."""
    return Parsed((Element("code", decode(content), language=code_language(media_type)),))
