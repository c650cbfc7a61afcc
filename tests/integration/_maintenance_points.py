"""Maintenance in a process that kills itself at a chosen point; the index is a fake, which maintenance only reads."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(config: str, home: str, index: str, at: str | None) -> list[str]:
    """The points that maintenance passes, "what #number"; at the point `at` it is killed."""
    from pipelines.config import load_config
    from pipelines.home import Home
    from pipelines.lake import blobs
    from pipelines.project import Project
    from pipelines.update.upkeep.maintenance import maintain

    blobs._UNTOUCHED_SECONDS = -1.0
    passed = _watch(at)
    project = Project(load_config(Path(config)), Home(Path(home)), index=pickle.loads(Path(index).read_bytes()))
    with project.writer("maintenance", "maintenance"):
        maintain(project, run_id="maintenance")
    return passed


def _watch(at: str | None) -> list[str]:
    from fsspec.implementations.local import LocalFileSystem

    from pipelines.lake import tables

    passed: list[str] = []
    counts: dict[str, int] = {}

    def before(owner: Any, name: str, label: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            what = label(*args)
            if what:
                counts[what] = counts.get(what, 0) + 1
                passed.append(f"{what} #{counts[what]}")
                if passed[-1] == at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        setattr(owner, name, call)

    before(tables, "write_deltalake", lambda table, *_: f"write {Path(table.table_uri).name}")
    before(tables.Lake, "compact", lambda _, name: f"compact {name}")
    before(Path, "unlink", lambda path: f"unlink of {_table(path)}" if path.suffix == ".parquet" else "")
    before(LocalFileSystem, "mv", lambda _, source, *__: "set blob aside" if "/blobs/" in source else "")
    before(LocalFileSystem, "rm_file", lambda _, path: "remove blob" if "/blobs/" in path else "")
    return passed


def _table(path: Path) -> str:
    return path.parts[path.parts.index("lake") + 1]
