"""The recipe: the fingerprints that decide which derived rows belong to today's configuration."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import pyarrow as pa

from pipelines.chunking.fingerprint import chunker_fp
from pipelines.config import Config
from pipelines.embedding.model import describe, dimension, model_fp
from pipelines.embedding.tokenizer import Tokenizer, load_tokenizer
from pipelines.identity import fingerprint
from pipelines.lexical import analyzer_fp
from pipelines.parsing.routes import ROUTES, parser_fp


class Recipe:
    """Fingerprints of one configuration. Computing them reads the model's files once, and loads no model."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._parsers: dict[str, str] = {}
        self._chunkers: dict[str, str] = {}

    def parser_fp(self, media_type: str) -> str:
        """How contents of that media type are parsed."""
        if media_type not in self._parsers:
            self._parsers[media_type] = parser_fp(media_type, self._config.parsing)
        return self._parsers[media_type]

    def chunk_fp(self, media_type: str) -> str:
        """How contents of that media type become chunks: parser, chunker, tokenizer and lexical analyser."""
        if media_type not in self._chunkers:
            parts = {"parser": self.parser_fp(media_type), "chunking": self._chunking_fp}
            self._chunkers[media_type] = fingerprint("recipe", parts)
        return self._chunkers[media_type]

    @cached_property
    def _chunking_fp(self) -> str:
        return fingerprint(
            "chunking",
            {
                "chunker": chunker_fp(self._config.chunking, self._tokenizer.fingerprint),
                "lexical": analyzer_fp(self._config.lexical),
            },
        )

    @cached_property
    def fingerprint(self) -> str:
        """Of the whole recipe, whatever media types are in use: another one means a full rebuild."""
        parsers = tuple(self.parser_fp(media_type) for media_type in sorted(ROUTES))
        return fingerprint("recipes", {"parsers": parsers, "chunking": self._chunking_fp})

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._config.encoder)

    @property
    def max_tokens(self) -> int:
        """The longest text that the encoder reads, special tokens included."""
        return self._tokenizer.max_tokens

    @cached_property
    def model_fp(self) -> str:
        """Of the encoder."""
        return model_fp(self._config.encoder)

    @cached_property
    def dimension(self) -> int:
        """Length of the encoder's vectors."""
        return dimension(self._config.encoder)

    @cached_property
    def model(self) -> dict[str, Any]:
        """How a query of a snapshot made today must load its encoder and analyse its words."""
        return {
            "encoder": describe(self._config.encoder),
            "lexical": self._config.lexical.model_dump(mode="json"),
        }

    @cached_property
    def chunk_fps(self) -> dict[str, str]:
        """`chunk_fp` of every media type that can be read, so that a snapshot can be held against the tables later."""
        return {media_type: self.chunk_fp(media_type) for media_type in sorted(ROUTES)}

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
