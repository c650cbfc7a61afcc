"""What the Milvus Lite process writes about itself into the index folder, and the names of files there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from pipelines.installed import version_of

_FILE = "server.json"
LOG_FILE = "server.log"
LOCK_FILE = "server.lock"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OUR_VERSION = 2  # +1 when what the process does changes: a process left from before is then replaced


def data_folder(folder: Path) -> Path:
    """Milvus Lite's own folder inside the index folder."""
    return folder / "milvus"


def server_version() -> str:
    """Which code a process runs: a running one of another version is restarted."""
    return f"{_OUR_VERSION}/{version_of('milvus-lite')}"


def process_started(pid: int) -> float | None:
    """When a process started (seconds since the epoch), which tells it from a later one of the same pid."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The process that serves an index folder."""

    pid: int
    started: float | None
    uri: str
    version: str
    token_mark: str = ""  # stands for the token that it asks for; another one in the folder: it is restarted
    set_aside: list[dict[str, str]] = field(default_factory=list)  # collection and reason, found damaged at its start

    @classmethod
    def read(cls, folder: Path) -> ServerRecord | None:
        """The record in an index folder; None when there is none, or none that can be read."""
        try:
            return cls(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Replace the record in one step."""
        scratch = folder / f"{_FILE}.{self.pid}"
        scratch.write_text(json.dumps(asdict(self)), encoding="utf-8")
        scratch.replace(folder / _FILE)

    @staticmethod
    def remove(folder: Path) -> None:
        """Forget the process."""
        (folder / _FILE).unlink(missing_ok=True)

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return bool(process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.uri.removeprefix("http://").rpartition(":")
        return host, int(port)


def tail(folder: Path, lines: int = 12) -> str:
    """The end of the process's log."""
    try:
        with (folder / LOG_FILE).open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 16_384))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
