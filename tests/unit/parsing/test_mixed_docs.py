"""Every real file of the shared collection through the guarded workers in one run."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.config import ParsingConfig
from pipelines.parsing.media_types import detect_media_type
from pipelines.parsing.stage import parse_stage

FOLDER = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mixed-docs"
pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data/mixed-docs is absent"),
]


def test_every_real_file_ends_as_parsed_empty_or_failed_with_a_reason():
    with (FOLDER / "manifest.tsv").open(encoding="utf-8", newline="") as handle:
        paths = [row["path"] for row in csv.DictReader(handle, delimiter="\t")]
    types = [detect_media_type((FOLDER / "files" / path).read_bytes()[:8192], path) for path in paths]
    batch = pa.RecordBatch.from_pydict({"content_hash": paths, "media_type": types})
    config = ParsingConfig(workers=2, timeout_seconds=30)
    rows = [
        row
        for out in parse_stage(config, lambda path: (FOLDER / "files" / path).read_bytes())(iter([batch]))
        for row in out.to_pylist()
    ]
    assert sorted(row["content_hash"] for row in rows) == sorted(paths)
    assert all(row["error_class"] and row["error"] for row in rows if row["status"] != "parsed")
    assert not [row["error"] for row in rows if row["error_class"] in ("TimeLimit", "MemoryLimit", "Crashed")]
    assert sum(row["status"] == "parsed" for row in rows) >= 430
