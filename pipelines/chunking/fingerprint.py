"""What the division of documents into chunks depends on, beside the documents. Imports nothing heavy."""

from __future__ import annotations

import unicodedata

from pipelines.config import ChunkingConfig
from pipelines.identity import fingerprint
from pipelines.installed import version_of

_CODE_VERSION = 1  # raise with every change that lets any document be divided otherwise


def chunker_fp(config: ChunkingConfig, tokenizer_fingerprint: str) -> str:
    """Fingerprint of the chunker: code version, options, tokenizer, and the library that knows the Unicode rules."""
    return fingerprint(
        "chunker",
        {
            "code": _CODE_VERSION,
            "max_tokens": config.max_tokens,
            "heading_context": config.heading_context,
            "tokenizer": tokenizer_fingerprint,
            "regex": version_of("regex"),
            "unicode": unicodedata.unidata_version,
        },
    )
