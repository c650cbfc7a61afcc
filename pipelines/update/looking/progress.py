"""How far each source was followed, and how it answered last: one small file a source, replaced as a whole.

These are conveniences. If a file is lost, everything announced is looked at once more, and nothing else happens.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tenacity import RetryCallState, wait_random_exponential

from pipelines.errors import LakeError, RateLimited, SourceError
from pipelines.home import Home
from pipelines.lake.lock import waiting_lock

_FIRST_WAIT_SECONDS = 5.0
_LONGEST_WAIT_SECONDS = 1_800.0
_LONGEST_ASKED_WAIT = timedelta(days=1)  # a source that asks to be left alone for longer is asked again after a day
_TIMES = ("listed_at", "contacted_at", "retry_at", "stream_retry_at", "approved_at")


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known about following one source. All times are UTC.

    `observed_sequence`: announced changes up to there were looked at. `applied_sequence`: what looks found up to there
    is in the manifest. `cursor` is the source's own. `error`, `failures` (in a row) and `retry_at` (not to be contacted
    by itself before that) are those of the last contact. Those of the stream are its own: while nothing announces
    changes, listings go on. `labels`: fingerprint of the access rules that are applied.
    """

    source: str
    observed_sequence: int = 0
    applied_sequence: int = 0
    cursor: str | None = None
    listed_at: datetime | None = None  # start of the last complete listing
    contacted_at: datetime | None = None  # end of the last contact that went well
    error: str | None = None
    failures: int = 0
    retry_at: datetime | None = None
    stream_error: str | None = None
    stream_failures: int = 0
    stream_retry_at: datetime | None = None
    labels: str = ""
    left: int = 0  # found events that the last update left to the next one
    approved_at: datetime | None = None

    def resting(self, now: datetime) -> bool:
        """Whether it is to be left alone for now."""
        return self.retry_at is not None and self.retry_at > now


def read(home: Home, source: str) -> Progress:
    """What is known; of a source that was never followed, and of a damaged record, nothing."""
    try:
        record = json.loads(_path(home, source).read_text(encoding="utf-8"))
        return Progress(**{name: _value(name, record[name]) for name in _NAMES if name in record})
    except (OSError, ValueError, TypeError):
        return Progress(source)


def change(home: Home, source: str, **values: Any) -> Progress:
    """Replace some fields, whoever else changes others at the same time.

    Raises:
        LakeError: the folder cannot be written.
    """
    path = _path(home, source)
    with waiting_lock(path.with_suffix(".lock")):
        changed = replace(read(home, source), **values)
        record = {name: _text(value) for name, value in asdict(changed).items()}
        temporary = path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps(record), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise LakeError(
                f"writing {path}: {error}; free space on that disk and make the folder writable, then run it again"
            ) from error
    return changed


def went_well(home: Home, source: str, **values: Any) -> Progress:
    """The source answered."""
    return change(home, source, contacted_at=datetime.now(UTC), error=None, failures=0, retry_at=None, **values)


def failed(home: Home, source: str, error: SourceError) -> Progress:
    """The source did not answer as it should: it is left alone for a while, longer each time in a row.

    The wait is random between nothing and a bound that doubles (tenacity's `wait_random_exponential`, the "full
    jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015), so that many sources behind
    one server do not come back together. A source that says how long it wants to be left alone gets that.
    """
    failures = read(home, source).failures + 1
    return change(home, source, error=_named(error), failures=failures, retry_at=_again_at(error, failures))


def stream_went_well(home: Home, source: str) -> Progress:
    """The source's stream answered."""
    state = read(home, source)
    if state.stream_error is None:
        return state
    return change(home, source, stream_error=None, stream_failures=0, stream_retry_at=None)


def stream_failed(home: Home, source: str, error: SourceError) -> Progress:
    """The source's stream did not answer as it should: it is left alone as `failed` says, and the source is not."""
    failures = read(home, source).stream_failures + 1
    retry_at = _again_at(error, failures)
    return change(home, source, stream_error=_named(error), stream_failures=failures, stream_retry_at=retry_at)


def _named(error: SourceError) -> str:
    return f"{type(error).__name__}: {error}"


def _again_at(error: SourceError, failures: int) -> datetime:
    now = datetime.now(UTC)
    retry_at = now + timedelta(seconds=_FIRST_WAIT_SECONDS / 2 + _backoff_seconds(failures))
    if isinstance(error, RateLimited) and error.retry_after_seconds is not None:
        retry_at = max(retry_at, now + min(timedelta(seconds=error.retry_after_seconds), _LONGEST_ASKED_WAIT))
    return retry_at


def _backoff_seconds(failures: int) -> float:
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = failures
    return float(wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS)(state))


_NAMES = tuple(field.name for field in fields(Progress))


def _path(home: Home, source: str) -> Path:
    return home.progress / f"{source}.json"


def _text(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _value(name: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if name in _TIMES and value is not None else value
