"""Every error that Lockstep raises on purpose.

    LockstepError
    ├── ConfigError            the configuration is wrong: file, line and key are named
    ├── SourceError            a source could not be read as a whole (unread is not empty)
    │   ├── MassDeletionRefused  an update would delete more than the guard allows
    │   ├── SourceForbidden      it is there, and these credentials may not read it
    │   ├── SourceStalled        it did not answer for longer than its `stall_seconds`
    │   └── RateLimited          it asks to be left alone for a while
    ├── DocumentError          one document failed; becomes a dead letter, never stops a run
    │   ├── FetchError         its bytes could not be read
    │   ├── ParseError         it has no readable content, is damaged, or passes a limit
    │   └── EncodeError        its text has no finite vector
    ├── TooManyFailures        failures passed both the number and the ratio of `limits`
    ├── LakeError              a table or blob is missing, damaged or of another schema
    │   └── ManifestMoved      the manifest changed between two steps of one update
    ├── WriterBusy             another update holds the writer lock
    ├── IndexUnavailable       the index cannot be reached (a retry may help)
    ├── IndexMismatch          the index does not hold what the tables say
    ├── GateFailed             a check refused the promotion of a candidate
    │   └── RebuildDiffers       a rebuild from nothing and the incremental index hold different rows
    ├── SnapshotNotFound       no such snapshot, or it is no longer in the index
    └── AccessError            a principal or an access rule is malformed

`transient` tells whether running again without any change may help; the Dagster edge maps it to a retry.
A message says what was being done to which object, what was found, and what to do next.
"""

from __future__ import annotations


class LockstepError(Exception):
    """Base of all errors that Lockstep raises on purpose."""

    transient = False


class ConfigError(LockstepError):
    """The configuration is wrong; the message names file, line and key."""


class SourceError(LockstepError):
    """A source could not be read as a whole; nothing may be inferred from what it did return."""

    transient = True


class MassDeletionRefused(SourceError):
    """An update would delete a larger share of a source than the guard allows."""

    transient = False

    def __init__(self, message: str, *, doc_ids: tuple[str, ...] = (), total: int = 0) -> None:
        super().__init__(message)
        self.doc_ids = doc_ids  # what would go
        self.total = total  # what the source has now


class SourceForbidden(SourceError):
    """The source is there, and these credentials may not read it: waiting does not cure that."""

    transient = False


class SourceStalled(SourceError):
    """The source did not answer for longer than its `stall_seconds`."""


class RateLimited(SourceError):
    """The source asks to be left alone; `retry_after_seconds` says for how long, None when it does not say."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class DocumentError(LockstepError):
    """One document failed at one stage. `uri` names it."""

    def __init__(self, message: str, *, uri: str = "") -> None:
        super().__init__(message)
        self.uri = uri


class FetchError(DocumentError):
    """The bytes of a document could not be read."""

    transient = True


class ParseError(DocumentError):
    """A document is damaged, encrypted, empty of text, of an unsupported kind, or passes a limit."""


class EncodeError(DocumentError):
    """A text has no finite vector."""


class TooManyFailures(LockstepError):
    """So many documents failed in one run that the run must be looked at first."""


class LakeError(LockstepError):
    """A table or blob is missing, damaged, or has another schema than this version writes."""


class ManifestMoved(LakeError):
    """The manifest changed between two steps of one update."""

    transient = True


class WriterBusy(LockstepError):
    """Another update holds the writer lock."""

    transient = True


class IndexUnavailable(LockstepError):
    """The index cannot be reached."""

    transient = True


class IndexMismatch(LockstepError):
    """The index does not hold what the tables say it should."""


class GateFailed(LockstepError):
    """A check refused the promotion of a candidate snapshot."""


class RebuildDiffers(GateFailed):
    """A rebuild from nothing holds other rows than the index that was brought forward by differences."""


class SnapshotNotFound(LockstepError):
    """No such snapshot, or its rows are no longer in the index."""


class AccessError(LockstepError):
    """A principal or an access rule is malformed."""
