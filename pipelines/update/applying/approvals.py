"""Deletions that the guard stopped, and the operator's answers: what was shown is approved, and nothing more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, LakeError
from pipelines.home import Home
from pipelines.identity import fingerprint
from pipelines.project import Project
from pipelines.update.audit import write_audit

_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class DeletionRequest:
    """Documents of one source that an update would delete, and whether somebody allowed it. `total`: before that."""

    source: str
    count: int
    total: int
    digest: str  # of the set of documents, so that an answer fits one question only
    examples: tuple[str, ...]
    asked_at: datetime
    approved_by: str | None = None


def ask(home: Home, source: str, documents: Sequence[tuple[str, str]], total: int) -> DeletionRequest:
    """Keep the question for the operator; the same question again changes nothing.

    Args:
        home: where it is kept.
        source: name of the source.
        documents: (doc_id, uri) of each document that would go.
        total: documents that the source has in the index now.
    """
    ids = sorted(doc_id for doc_id, _ in documents)
    digest = fingerprint("deletions", {"ids": tuple(ids)})
    known = _read(home, source)
    if known is not None and known[0].digest == digest:
        return known[0]
    examples = tuple(uri for _, uri in documents[:_EXAMPLES])
    request = DeletionRequest(source, len(ids), total, digest, examples, datetime.now(UTC))
    _write(home, request, ids)
    return request


def requests(project: Project) -> list[DeletionRequest]:
    """Every question that is open, or answered and not used yet, by source."""
    found = (_read(project.home, source.name) for source in project.config.sources)
    return [one[0] for one in found if one is not None]


def approve(project: Project, source: str, *, by: str, run_id: str) -> DeletionRequest:
    """Allow the deletions that were asked about; the next update does them. Other documents are not covered.

    Raises:
        ConfigError: there is no such source, or it has no open question.
    """
    project.config.source(source)
    known = _read(project.home, source)
    if known is None:
        raise ConfigError(
            f"source {source!r} has no deletions that wait for approval; `lockstep plan` shows what an update would do"
        )
    request = replace(known[0], approved_by=by)
    detail = {"source": source, "documents": request.count, "digest": request.digest, "by": by}
    write_audit(project, action="approve_deletions", target=f"index:{project.alias}", detail=detail, run_id=run_id)
    _write(project.home, request, known[1])
    return request


def approved(home: Home, source: str) -> frozenset[str]:
    """Documents that the operator allowed to go."""
    known = _read(home, source)
    return frozenset(known[1]) if known is not None and known[0].approved_by else frozenset()


def settle(home: Home, source: str) -> None:
    """The question is settled: the documents are gone, or they are back."""
    _path(home, source).unlink(missing_ok=True)


def _path(home: Home, source: str) -> Path:
    return home.approvals / f"{source}.json"


def _read(home: Home, source: str) -> tuple[DeletionRequest, list[str]] | None:
    try:
        record: dict[str, Any] = json.loads(_path(home, source).read_text(encoding="utf-8"))
        ids = record.pop("doc_ids")
        asked_at = datetime.fromisoformat(record.pop("asked_at"))
        return DeletionRequest(**{**record, "examples": tuple(record["examples"]), "asked_at": asked_at}), ids
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no question, or one that cannot be read: then it is asked again


def _write(home: Home, request: DeletionRequest, ids: list[str]) -> None:
    path = _path(home, request.source)
    record = {**asdict(request), "asked_at": request.asked_at.isoformat(), "doc_ids": ids}
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise LakeError(f"writing {path}: {error}; free space on that disk and make the folder writable") from error
