"""The recipe: the fingerprints that decide which derived rows belong to today's configuration."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa

from pipelines.chunking.fingerprint import chunker_fp
from pipelines.config import Config
from pipelines.embedding.model import describe, model_fp
from pipelines.embedding.tokenizer import load_tokenizer
from pipelines.identity import fingerprint
from pipelines.lexical import analyzer_fp
from pipelines.parsing.fingerprint import parser_fp, parsers_fp


class Recipe:
    """Fingerprints of one configuration. Computing them reads the model's files once, and loads no model."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.parser_fp = lru_cache(maxsize=None)(self._parser_fp)
        self.chunk_fp = lru_cache(maxsize=None)(self._chunk_fp)

    def _parser_fp(self, media_type: str) -> str:
        """How contents of that media type are parsed."""
        return parser_fp(media_type, self._config.parsing)

    def _chunk_fp(self, media_type: str) -> str:
        """How contents of that media type become chunks: parser, chunker, tokenizer and lexical analyser."""
        return fingerprint("recipe", {"parser": self.parser_fp(media_type), "chunking": self._chunking_fp})

    @cached_property
    def _chunking_fp(self) -> str:
        tokenizer = load_tokenizer(self._config.encoder)
        return fingerprint(
            "chunking",
            {
                "chunker": chunker_fp(self._config.chunking, tokenizer.fingerprint),
                "lexical": analyzer_fp(self._config.lexical),
            },
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of the whole recipe, whatever media types are in use: another one means a full rebuild."""
        return fingerprint("recipes", {"parsers": parsers_fp(self._config.parsing), "chunking": self._chunking_fp})

    @cached_property
    def model_fp(self) -> str:
        """Of the encoder."""
        return model_fp(self._config.encoder)

    @cached_property
    def model(self) -> dict[str, Any]:
        """How a query of a snapshot made today must load its encoder and analyse its words."""
        return {
            "encoder": describe(self._config.encoder),
            "lexical": self._config.lexical.model_dump(mode="json"),
        }

    def keyed(self, documents: pa.Table) -> pa.Table:
        """Content, media type and both fingerprints of documents, one row a document, in their order."""
        media_types = documents["media_type"].to_pylist()
        return pa.table(
            {
                "content_hash": documents["content_hash"],
                "media_type": documents["media_type"],
                "parser_fp": pa.array([self.parser_fp(m) for m in media_types], pa.string()),
                "recipe_fp": pa.array([self.chunk_fp(m) for m in media_types], pa.string()),
            }
        )
