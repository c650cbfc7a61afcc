"""Bytes of a document to elements: detection of the format, the parse in a guarded process, the rows of `elements`.

Importing this package is cheap; the libraries that read formats are imported by the workers.
"""

from __future__ import annotations

from pipelines.parsing.elements import KINDS, Element, Parsed
from pipelines.parsing.media_types import RECORD, detect_media_type
from pipelines.parsing.routes import parser_fp
from pipelines.parsing.stage import parse_stage

__all__ = ["KINDS", "RECORD", "Element", "Parsed", "detect_media_type", "parse_stage", "parser_fp"]
