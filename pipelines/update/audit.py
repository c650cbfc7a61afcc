"""Writing the audit log: who did what to which data, chained by hashes, written before the act."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa

from pipelines.governance.audit import GENESIS, entry
from pipelines.lake.lock import waiting_lock
from pipelines.lake.schemas import AUDIT_LOG
from pipelines.project import Project

TABLE = "audit_log"


def write_audit(project: Project, *, action: str, target: str, detail: Mapping[str, object], run_id: str) -> None:
    """Append one entry; the caller does the act only after this returned."""
    with waiting_lock(project.home.audit_lock):  # an approval is written while an update may be running
        last = project.lake.greatest(TABLE, "sequence")
        newest = project.lake.after(TABLE, ["entry_hash"], by="sequence", value=last or 0, inclusive=True)
        row = entry(
            previous_hash=newest["entry_hash"][0].as_py() if last is not None else GENESIS,
            sequence=last + 1 if last is not None else 1,
            at=datetime.now(UTC),
            actor=actor(),
            action=action,
            target=target,
            detail=detail,
            run_id=run_id,
        )
        project.lake.append(TABLE, pa.Table.from_pylist([row], schema=AUDIT_LOG), run_id=run_id)


def actor() -> str:
    """Who is acting: LOCKSTEP_ACTOR when set (a service that acts for somebody), else the system's user."""
    named = os.environ.get("LOCKSTEP_ACTOR")
    if named:
        return named
    try:
        return f"user:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"uid:{os.getuid()}"
