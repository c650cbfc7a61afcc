"""Why a document could not be parsed, one class a reason; the class name is the `error_class` of the elements table.

    ParseError
    └── ParseFailure
        ├── Encrypted     a password or key is needed
        ├── Damaged       the bytes are not what the format requires
        ├── Unreadable    the parser gave up for a reason of its own; damage is likely, but not proved
        ├── Unsupported   no parser for this format
        ├── Scanned       pages are pictures without a text layer
        ├── ArchiveBomb   unpacked, it would pass what the configuration allows
        ├── TooLarge      it has more text than the configuration allows
        └── Interrupted   (transient) the worker process ended before the parse did
            ├── TimeLimit
            ├── MemoryLimit
            └── Crashed

A document without text is no failure: its status is `empty`, its `error_class` is `NoText`.
"""

from __future__ import annotations

from pipelines.errors import ParseError
from pipelines.parsing.limits import Limits

NO_TEXT = "NoText"


class ParseFailure(ParseError):
    """Base of the reasons; the message is written for the person who owns the document."""


class Encrypted(ParseFailure):
    """A password or key is needed to read the document."""


class Damaged(ParseFailure):
    """The bytes are not what the format requires: truncated, malformed, inconsistent."""


class Unreadable(ParseFailure):
    """The parser gave up in a way that it does not explain: damage, or a variant that it does not know."""


class Unsupported(ParseFailure):
    """There is no parser for this format."""


class Scanned(ParseFailure):
    """All pages are pictures without a text layer."""


class ArchiveBomb(ParseFailure):
    """A container declares, or turns out to hold, more than the configuration allows to unpack."""


class TooLarge(ParseFailure):
    """The document has more text than the configuration allows."""


class Interrupted(ParseFailure):
    """The worker process ended before the parse did."""

    transient = True


class TimeLimit(Interrupted):
    """The parse took longer than `parsing.timeout_seconds`."""


class MemoryLimit(Interrupted):
    """The parse needed more memory than `parsing.memory_bytes`."""


class Crashed(Interrupted):
    """The library that reads the format ended the process."""


def memory_message(config: Limits) -> str:
    """What is said of a document that needed too much memory."""
    return (
        f"reading it needed more than {config.memory_bytes >> 20} MiB of memory (parsing.memory_bytes); "
        "split the document, or raise the limit"
    )
