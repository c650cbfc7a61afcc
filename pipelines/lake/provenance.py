"""Which commit wrote a row that a table holds now, as far as its log tells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.dataset as ds
from deltalake import DeltaTable

_RUN_ID = "lockstep.run_id"


@dataclass(frozen=True, slots=True)
class Writing:
    """One commit. `anew`: it wrote the whole table again (maintenance), so the row is older than it."""

    run_id: str | None
    version: int
    at: datetime | None
    anew: bool


def written_by(folder: Path, where: ds.Expression) -> Writing | None:
    """The commit that wrote the first row that fits; None when no row does, or the log no longer has the commit."""
    if not (folder / "_delta_log").is_dir():
        return None
    dataset = DeltaTable(str(folder)).to_pyarrow_dataset()
    for fragment in dataset.get_fragments(where):
        if fragment.count_rows(filter=where):
            return _adding(folder, Path(fragment.path).name)
    return None


def _adding(folder: Path, file: str) -> Writing | None:
    for path in sorted((folder / "_delta_log").glob("*.json"), reverse=True):
        text = path.read_text(encoding="utf-8")
        if not path.stem.isdigit() or file not in unquote(text):
            continue
        actions = [json.loads(line) for line in text.splitlines()]
        if any(Path(unquote(action["add"]["path"])).name == file for action in actions if "add" in action):
            told: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
            return _told(int(path.stem), told)
    return None


def _told(version: int, told: dict[str, Any]) -> Writing:
    at = told.get("timestamp")
    return Writing(
        run_id=told.get(_RUN_ID),
        version=version,
        at=datetime.fromtimestamp(at / 1000, UTC) if isinstance(at, int) else None,
        anew=told.get("operationParameters", {}).get("mode") == "Overwrite" or told.get("operation") == "OPTIMIZE",
    )
