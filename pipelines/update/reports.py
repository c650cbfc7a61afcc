"""What each step of an update tells: plain records that the command line and the Dagster metadata are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipelines.lake.dead_letters import Failure


@dataclass(frozen=True, slots=True)
class SourceOutcome:
    """How one source fared. `error` is set when it could not be read as a whole: then nothing was inferred."""

    source: str
    added: int = 0
    changed: int = 0
    deleted: int = 0
    access_changed: int = 0
    unchanged: int = 0
    complete: bool = True
    problems: tuple[Failure, ...] = ()
    error: str | None = None
    waiting: int = 0  # events found and left to the next update


@dataclass(frozen=True, slots=True)
class ChangesReport:
    """Step 1, detect and fetch. Nothing but staging and blobs was written.

    `waiting`: events of all sources that were found and are left to the next update.
    """

    manifest_version: int
    sources: tuple[SourceOutcome, ...]
    fetched: int
    fetched_bytes: int
    waiting: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ParseReport:
    """Step 2: contents parsed now; `failures` names the documents among the staged ones that have no elements."""

    parsed: int
    empty: int
    failed: int
    reused: int
    characters: int
    failures: tuple[Failure, ...]
    table_version: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ManifestReport:
    """Step 3: what the merge did to the manifest. From here on the desired state is `manifest_version`."""

    manifest_version: int
    added: int
    changed: int
    deleted: int
    access_changed: int
    unchanged: int
    quarantined: int  # documents now without their newest version, or without any
    active: int
    open_dead_letters: int
    committed: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """Step 4a: chunks made now, and chunks that active documents have in all.

    Of more than 65,536, an update that looks only at what changed tells how many the table holds; so does step 4b.
    """

    contents: int
    added: int
    total: int
    table_version: int
    seconds: float


@dataclass(frozen=True, slots=True)
class EncodeReport:
    """Step 4b: vectors made now (misses) and those that were there (hits), of the distinct texts wanted."""

    encoded: int
    reused: int
    total: int
    failures: tuple[Failure, ...]
    model_fp: str
    table_version: int
    seconds: float

    @property
    def hit_rate(self) -> float:
        """Share of wanted texts whose vector was there already; 1 when none was wanted."""
        return self.reused / self.total if self.total else 1.0


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """Step 5: the snapshot in the idle slot, or the live one when there was nothing to do (`built` is False)."""

    snapshot_id: str
    built: bool
    kind: str
    collection: str
    manifest_version: int
    documents: int
    rows: int
    digest: str
    upserted: int
    deleted: int
    touched: tuple[str, ...]  # doc_ids looked at; empty for a full build
    reason: str  # why incremental, full, or nothing
    seconds: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """Step 6: one check of a candidate. A gate that does not pass stops the promotion."""

    name: str
    passed: bool
    description: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExpectationsReport:
    """The expectations on one table, on the rows of this update or on all."""

    table: str
    expectations: int
    failed: int
    checked_rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PromotionReport:
    """The alias after the step. `promoted` is False when the live snapshot was current already."""

    snapshot_id: str
    promoted: bool
    previous: str | None
    collection: str
    swap_seconds: float


@dataclass(frozen=True, slots=True)
class RollbackReport:
    """An earlier snapshot is live again; `rebuilt` tells that its rows had to come back from the tables first."""

    snapshot_id: str
    previous: str
    rebuilt: bool
    swap_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The live collection, read back in full, against the tables. `compared` says in words what was held against what.

    `differing_rows`: the first of `differing` problems, each with chunk_id, uri and what differs.
    """

    ok: bool
    snapshot_id: str
    compared: str
    complete: bool  # False: something could not be compared, see `compared`
    rows: int
    expected_rows: int
    expected_digest: str
    actual_digest: str
    differing_documents: tuple[str, ...]  # at most 20 uris
    differing_rows: tuple[dict[str, Any], ...]  # at most 20
    differing: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What an update would do, changing nothing."""

    sources: tuple[SourceOutcome, ...]
    added: int
    changed: int
    deleted: int
    access_changed: int
    unchanged: int
    to_parse: int
    to_encode: int
    encode_exact: bool  # False: an estimate, because changed contents are not parsed yet
    estimated_seconds: float
    notes: tuple[str, ...]
    seconds: float
