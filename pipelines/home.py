"""Where one installation keeps its data: the folders under LOCKSTEP_HOME and what each is for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import LockstepError


@dataclass(frozen=True, slots=True)
class Home:
    """The data folder. All paths are absolute; nothing is created by naming it."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """LOCKSTEP_HOME, or `.lockstep` in the current folder."""
        return cls(Path(os.environ.get("LOCKSTEP_HOME") or ".lockstep").absolute())

    def claim(self) -> None:
        """Make the data folder if there is none, and see to it that its owner alone can look inside.

        The folder's own rights are a wall around everything below it: texts of all documents, whoever may read them.

        Raises:
            LockstepError: it cannot be made; or others can look inside, and this user cannot change that.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.root.stat()
            if os.geteuid() not in (0, found.st_uid):
                raise PermissionError(f"it belongs to the user {found.st_uid}, and this is {os.geteuid()}")
            if found.st_mode & 0o077:
                self.root.chmod(found.st_mode & 0o700)
        except OSError as error:
            raise LockstepError(
                f"the data folder {self.root} must belong to the user who runs Lockstep, and be closed to others: "
                f"{error}; run this as its owner, make it writable, or name another folder in LOCKSTEP_HOME"
            ) from error

    @property
    def lake(self) -> Path:
        """Delta tables, one folder each."""
        return self.root / "lake"

    @property
    def blobs(self) -> Path:
        """Raw bytes by content hash."""
        return self.root / "blobs"

    @property
    def index(self) -> Path:
        """Milvus Lite's data, and the record of its process."""
        return self.root / "index"

    @property
    def staging(self) -> Path:
        """What one step of an update hands to the next; safe to delete between updates."""
        return self.root / "staging"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME: run history and logs."""
        return self.root / "dagster"

    @property
    def data_docs(self) -> Path:
        """Great Expectations' rendered results."""
        return self.root / "data_docs"

    @property
    def progress(self) -> Path:
        """How far each source was followed, one small file a source."""
        return self.root / "progress"

    @property
    def inbox(self) -> Path:
        """Webhook deliveries that were accepted and are not in `change_events` yet, one folder a source."""
        return self.root / "inbox"

    @property
    def approvals(self) -> Path:
        """Deletions that the guard asks about, and the operator's answers, one file a source."""
        return self.root / "approvals"

    @property
    def events_lock(self) -> Path:
        """Held for the moment in which events are appended or pruned."""
        return self.root / "events.lock"

    @property
    def audit_lock(self) -> Path:
        """Held for the moment in which an entry of the audit log is chained to the one before it."""
        return self.root / "audit.lock"

    @property
    def writer_lock(self) -> Path:
        """Held by the one update that may write."""
        return self.root / "writer.lock"
