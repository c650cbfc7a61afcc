"""Memory and time of whole builds of short generated documents: `python -m benchmarks.scale`.

Each size is built in a process of its own, with a stand-in encoder, so that what is measured is everything else. Memory
is the largest resident size seen: of the building process (which has torch in it), of its parse workers together, and
of Milvus Lite's process. After the build come a no-op and an update of 100 changed documents.
"""

from __future__ import annotations

import cProfile
import json
import os
import pstats
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import corpora, job, measuring
from benchmarks.stand_in import write_stand_in
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.home import Home

SIZES = (10_000, 30_000, 100_000)
EDITED = 100


def write(path: Path, count: int, *, edited: int = 0, addition: str = "") -> None:
    """The records, the first of them with something added."""
    with path.open("w", encoding="utf-8") as file:
        for number, record in enumerate(corpora.short_documents(count)):
            if number < edited:
                record["text"] += addition
            file.write(json.dumps(record) + "\n")


def build(folder: Path, count: int, profile: Path | None) -> dict[str, Any]:
    """Build that many documents, then change nothing, then change some."""
    records, home = folder / "documents.jsonl", Home(folder / "home")
    write(records, count)
    encoder = EncoderConfig(model=str(write_stand_in(folder / "stand-in")), dtype="float32")
    config = corpora.records_config(folder, records, encoder=encoder.model_dump(exclude_defaults=True))
    load_encoder(encoder).encode(["warm up"] * 4)
    profiler = cProfile.Profile()
    result: dict[str, Any] = {"documents": count}
    with measuring.PeakMemory(home) as memory:
        if profile:
            profiler.enable()
        full = job.update(config, home)
        profiler.disable()
    if profile:
        with profile.open("w", encoding="utf-8") as stream:
            statistics = pstats.Stats(profiler, stream=stream)
            statistics.sort_stats("tottime").print_stats(40)
            statistics.sort_stats("cumtime").print_stats(80)
    assert full.manifest.added == count, full.manifest
    result |= {
        "rows": full.candidate.rows,
        "seconds": full.took.wall,
        "cpu": full.took.cpu,
        "index_cpu": full.took.index_cpu,
        "steps": full.steps,
        "commits": full.commits,
        "memory": {name: getattr(memory, name) for name in ("own", "workers", "together", "index")},
    }
    with measuring.PeakMemory(home) as memory:
        result["nothing_changed"] = job.update(config, home).took.wall
        for name in ("edited_first", "edited"):
            write(records, count, edited=EDITED, addition=f" Something was added: {name}.")
            done = job.update(config, home)
            result[name] = {"seconds": done.took.wall, "encoded": done.encoded.encoded, "steps": done.steps}
    result["memory_of_updates"] = {name: getattr(memory, name) for name in ("own", "index")}
    return result


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--one", type=int, help="build this size in this process (what each size is run as)")
    parser.add_argument("--profile", type=Path, help="with --one: write where the time goes into this file")
    options = parser.parse_args()
    if options.one:
        with measuring.scratch(options.folder) as folder:
            print(json.dumps(build(folder, options.one, options.profile)))
        return
    results = []
    for size in options.sizes:
        command = [sys.executable, "-m", "benchmarks.scale", "--one", str(size)]
        # Products this small are slower on two threads than on one, above all on a busy machine.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
    steps = list(results[0]["steps"])
    megabytes = 2**20
    lines = [
        measuring.table(
            [
                [
                    r["documents"],
                    r["rows"],
                    r["seconds"],
                    *(1_000 * r[key] / r["documents"] for key in ("seconds", "cpu", "index_cpu")),
                    *(r["memory"][name] // megabytes for name in ("own", "workers", "index")),
                    r["nothing_changed"],
                    r["edited_first"]["seconds"],
                    r["edited"]["seconds"],
                ]
                for r in results
            ],
            [
                "documents",
                "rows",
                "seconds",
                "ms a document",
                "cpu ms",
                "index cpu ms",
                "build MiB",
                "workers MiB",
                "index MiB",
                "no-op s",
                f"{EDITED} edited, full s",
                f"{EDITED} edited s",
            ],
        ),
        "",
        measuring.table(
            [[r["documents"], *(1_000 * r["steps"][step] / r["documents"] for step in steps)] for r in results],
            ["ms a document of step", *steps],
        ),
    ]
    measuring.tell({"sizes": results}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
