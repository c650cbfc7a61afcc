"""What could not be processed, per document and stage, until it is resolved or discarded.

When a letter is tried again by itself is decided here; how it is tried again belongs to
`pipelines.update.looking.letters`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
from tenacity import RetryCallState, wait_random_exponential

from pipelines.errors import LockstepError
from pipelines.identity import fingerprint
from pipelines.lake.schemas import DEAD_LETTERS
from pipelines.lake.tables import Lake

TABLE = "dead_letters"
Stage = Literal["event", "list", "fetch", "parse", "chunk", "encode"]
Status = Literal["open", "resolved", "discarded"]
STAGES: tuple[Stage, ...] = get_args(Stage)
STATUSES: tuple[Status, ...] = get_args(Status)

_FIRST_WAIT_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 6 * 3_600.0
LAST_ATTEMPT = 8  # attempts after which a failure that might pass is left to the operator: about a day
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """One document, or one announcement, failed at one stage."""

    source: str
    uri: str
    stage: Stage
    error_class: str
    error: str
    transient: bool = False
    content_hash: str | None = None  # of the payload, in the blob folder

    @property
    def letter_id(self) -> str:
        """One letter a document and stage: a second attempt counts up instead of adding another."""
        return fingerprint("letter", {"source": self.source, "uri": self.uri, "stage": self.stage})


def open_letters(lake: Lake) -> pa.Table:
    """The letters that nobody has resolved or laid aside."""
    return lake.read(TABLE, where=pc.field("status") == "open")


def unresolved(lake: Lake) -> pa.Table:
    """The open letters and the discarded ones: what still fails, whether somebody shall look at it or not."""
    return lake.read(TABLE, where=pc.field("status") != "resolved")


def find(lake: Lake, letter_id: str) -> Row:
    """The letter of that id, or of a unique beginning of it.

    Raises:
        LockstepError: none or several begin like that.
    """
    rows: list[Row] = lake.read(TABLE).to_pylist()
    found = [row for row in rows if row["letter_id"].startswith(letter_id)] if letter_id else []
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} dead letters begin with" if found else "there is no dead letter"
    raise LockstepError(f"{problem} {letter_id!r}; `lockstep dead-letters list --status all` shows them")


def next_attempt(attempts: int, now: datetime, *, transient: bool) -> datetime | None:
    """When to try again by itself after that many attempts; None: not before somebody asks.

    The wait lies at random in the upper half of a bound that doubles from one minute to six hours (tenacity's
    exponential wait), so that what failed together does not come back together.
    """
    if not transient or attempts >= LAST_ATTEMPT:
        return None
    return now + timedelta(seconds=backoff_seconds(attempts))


def backoff_seconds(attempts: int) -> float:
    """How long to wait after that many attempts, at random."""
    state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    state.attempt_number = attempts
    least = min(_FIRST_WAIT_SECONDS * 2.0 ** (attempts - 1), _LONGEST_WAIT_SECONDS) / 2
    return least + float(wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS)(state)) / 2


def record(lake: Lake, failures: Sequence[Failure], *, healthy: Iterable[tuple[str, str]], run_id: str) -> int:
    """Open or update a letter a failure, and resolve those of documents that are healthy again, in one commit.

    A discarded letter stays discarded while its document fails with the same content for the same reason, and opens
    again when either is another.

    Args:
        lake: the tables.
        failures: what failed in this run.
        healthy: (source, uri) of documents that passed every stage, or are gone from their source.
        run_id: recorded with each letter.

    Returns:
        How many letters are open afterwards.
    """
    now = datetime.now(UTC)
    before: dict[str, Row] = {row["letter_id"]: row for row in lake.read(TABLE).to_pylist()}
    rows: dict[str, Row] = {}
    for failure in failures:
        row = _failed_again(failure, before.get(failure.letter_id), now)
        if row is not None:
            rows[failure.letter_id] = {**row, "run_id": run_id}
    failing = {failure.letter_id for failure in failures}
    resolved = set(healthy)
    for letter_id, row in before.items():
        if row["status"] == "open" and letter_id not in failing and (row["source"], row["uri"]) in resolved:
            rows[letter_id] = {**row, "status": "resolved", "run_id": run_id, "last_seen_at": now, "retry_at": None}
    write(lake, list(rows.values()), run_id=run_id)
    after = {**before, **rows}
    return sum(row["status"] == "open" for row in after.values())


def write(lake: Lake, rows: Sequence[Mapping[str, Any]], *, run_id: str) -> None:
    """Insert or replace letters in one commit; none, no commit."""
    if rows:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=DEAD_LETTERS)
        lake.merge(TABLE, table, key="letter_id", run_id=run_id)


def _failed_again(failure: Failure, known: Row | None, now: datetime) -> Row | None:
    """The letter's next row; None when it stays as it is."""
    same = known is not None and (known["error"], known["content_hash"]) == (failure.error, failure.content_hash)
    if known is not None and known["status"] == "discarded" and same:
        return None
    still = known if known is not None and known["status"] == "open" else None
    if failure.stage == "list" and still and same:
        return None  # a listing meets the same obstacle each time: that is no new attempt, and no reason to commit
    attempts = 1 + (still["attempts"] if still else 0)
    return {
        **asdict(failure),
        "letter_id": failure.letter_id,
        "attempts": attempts,
        "status": "open",
        "first_seen_at": still["first_seen_at"] if still else now,
        "last_seen_at": now,
        "retry_at": next_attempt(attempts, now, transient=failure.transient),
    }
