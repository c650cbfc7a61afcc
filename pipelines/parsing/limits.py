"""The limits of a parse as parsers see them, without what reading a configuration takes.

`pipelines.config.ParsingConfig` fits. A parse worker starts for a single changed document; what it imports is time
until that document is searchable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Limits(Protocol):
    """See `ParsingConfig`."""

    @property
    def timeout_seconds(self) -> float:
        """Of one parse."""

    @property
    def memory_bytes(self) -> int:
        """That one parse may add."""

    @property
    def max_unpacked_bytes(self) -> int:
        """Of an archive."""

    @property
    def max_compression_ratio(self) -> float:
        """Of an archive."""

    @property
    def max_archive_entries(self) -> int:
        """Of an archive."""

    @property
    def max_characters(self) -> int:
        """Of a document's text."""


@dataclass(frozen=True, slots=True)
class GivenLimits:
    """Those that a worker was told."""

    timeout_seconds: float
    memory_bytes: int
    max_unpacked_bytes: int
    max_compression_ratio: float
    max_archive_entries: int
    max_characters: int
    workers: int = 1
