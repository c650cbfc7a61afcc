"""Every file of ../shared/data/mixed-docs through `parse_stage` in one run: a table per format.

python benchmarks/mixed_docs.py [--markdown] [--files] [--failures]
"""

from __future__ import annotations

import argparse
import csv
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.config import ParsingConfig
from pipelines.identity import content_hash
from pipelines.parsing.media_types import detect_media_type
from pipelines.parsing.stage import parse_stage

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "mixed-docs"


@dataclass
class Row:
    files: int = 0
    parsed: int = 0
    empty: int = 0
    failed: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    characters: int = 0
    reasons: list[str] = field(default_factory=list)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--markdown", action="store_true", help="print the tables for the documentation")
    options.add_argument("--files", action="store_true", help="also one line a file")
    options.add_argument("--failures", action="store_true", help="also one line a file that was not parsed")
    options.add_argument("--workers", type=int, default=2)
    arguments = options.parse_args()
    if not FOLDER.is_dir():
        print(f"{FOLDER} is absent; nothing was measured", file=sys.stderr)
        return 2
    with (FOLDER / "manifest.tsv").open(encoding="utf-8", newline="") as handle:
        manifest = list(csv.DictReader(handle, delimiter="\t"))
    config = ParsingConfig(workers=arguments.workers)
    paths: dict[str, list[dict[str, str]]] = defaultdict(list)
    types: dict[str, str] = {}
    for entry in manifest:
        content = (FOLDER / "files" / entry["path"]).read_bytes()
        key = content_hash(content) + "/" + entry["path"]  # copies are parsed too: each file counts
        types[key] = detect_media_type(content[:8192], entry["path"])
        paths[key].append(entry)

    def read(key: str) -> bytes:
        return (FOLDER / "files" / paths[key][0]["path"]).read_bytes()

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"content_hash": list(types), "media_type": list(types.values())})

    started = time.perf_counter()
    results: list[dict[str, Any]] = []
    for batch in parse_stage(config, read)(batches()):
        results += batch.to_pylist()
        print(f"{len(results)} of {len(types)}", file=sys.stderr)
    wall = time.perf_counter() - started
    table: dict[str, Row] = defaultdict(Row)
    for result in results:
        entry = paths[result["content_hash"]][0]
        row = table[entry["ext"] or "(none)"]
        row.files += 1
        setattr(row, result["status"], getattr(row, result["status"]) + 1)
        row.seconds += result["seconds"]
        row.slowest = max(row.slowest, result["seconds"])
        row.characters += result["characters"]
        if result["status"] == "failed":
            row.reasons.append(result["error_class"])
        if arguments.files or (arguments.failures and result["status"] != "parsed"):
            reason = f"{result['error_class'] or ''}: {result['error'] or ''}"
            numbers = f"{result['status']:6} {result['seconds']:6.2f} {result['characters']:8} {entry['hostile']}"
            kind = types[result["content_hash"]]
            print(f"{numbers} {entry['path']} [{kind}] {reason if result['error'] else ''}")
    report(table, markdown=arguments.markdown)
    total = Row(
        *(
            sum(getattr(row, name) for row in table.values())
            for name in ("files", "parsed", "empty", "failed", "seconds")
        )
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"\n{total.files} files: {total.parsed} parsed, {total.empty} empty, {total.failed} dead letters; "
        f"{wall:.1f} s of wall time with {config.workers} workers, {total.seconds:.1f} s of parsing, "
        f"largest worker {peak:.0f} MiB; {platform.machine()}"
    )
    missing = set(types) - {result["content_hash"] for result in results}
    beyond = [r for r in results if r["seconds"] > config.timeout_seconds + 5]
    if missing or beyond or len(results) != len(types):
        print(f"{len(missing)} without a result, {len(beyond)} beyond their time", file=sys.stderr)
        return 1
    return 0


def report(table: dict[str, Row], *, markdown: bool) -> None:
    heads = ("format", "files", "parsed", "empty", "dead letters", "seconds", "slowest", "characters", "reasons")
    if markdown:
        print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    else:
        print(f"{heads[0]:14}" + "".join(f"{head:>13}" for head in heads[1:-1]) + "  reasons")
    for name, row in sorted(table.items(), key=lambda item: (-item[1].files, item[0])):
        reasons = ", ".join(f"{reason} {row.reasons.count(reason)}" for reason in sorted(set(row.reasons)))
        values = (
            row.files,
            row.parsed,
            row.empty,
            row.failed,
            f"{row.seconds:.2f}",
            f"{row.slowest:.2f}",
            f"{row.characters:,}",
        )
        if markdown:
            print("| " + " | ".join(map(str, (name, *values, reasons))) + " |")
        else:
            print(f"{name:14}" + "".join(f"{value!s:>13}" for value in values) + f"  {reasons}")


if __name__ == "__main__":
    raise SystemExit(main())
