"""A whole build of SciFact against the bare encoding of the same chunk texts: `python -m benchmarks.full_build`.

Each repetition builds from nothing with the default configuration, then with the encoder held to float32, and lets
sentence-transformers encode the chunk texts with its defaults, all in one process, so that what else the machine does
hits all three. Models are loaded before; everything else that an update does is in the library's time.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

from benchmarks import corpora, job, measuring
from benchmarks.baseline import Bare
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.embedding.model import resolve_dtype
from pipelines.home import Home
from pipelines.index.server import ensure_server, stop_server


def build(folder: Path, config: Path) -> tuple[job.Update, list[str]]:
    home = Home(folder / "home")
    shutil.rmtree(home.root, ignore_errors=True)
    ensure_server(home, linger=False)
    try:
        return job.update(config, home), job.chunk_texts(config, home)[0]
    finally:
        stop_server(home)


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--limit", type=int, help="only so many abstracts")
    parser.add_argument("--repetitions", type=int, default=2)
    options = parser.parse_args()
    with measuring.scratch(options.folder) as folder:
        records = folder / "corpus.jsonl"
        corpora.write_records(records, corpora.scifact(options.limit))
        kinds = {"default": EncoderConfig(), "float32": EncoderConfig(dtype="float32")}
        configs = {}
        for name, encoder in kinds.items():
            (folder / name).mkdir(exist_ok=True)
            sections = {"encoder": encoder.model_dump(exclude_defaults=True)}
            configs[name] = corpora.records_config(folder / name, records, **sections)
        bare = Bare()
        for encoder in kinds.values():
            load_encoder(encoder).encode(["warm up"] * 4)
        runs: list[dict[str, Any]] = []
        for repetition in range(options.repetitions):
            run: dict[str, Any] = {}
            for name, config in configs.items():
                update, texts = build(folder / name, config)
                run[name] = {
                    "seconds": update.took.wall,
                    "cpu": update.took.cpu,
                    "index_cpu": update.took.index_cpu,
                    "encoded": update.encoded.encoded,
                    "rows": update.candidate.rows,
                    "steps": update.steps,
                }
            run["bare"] = bare.seconds(texts)
            for name in kinds:
                run[name]["ratio"] = run[name]["seconds"] / run["bare"]
            runs.append(run)
            if not options.json:
                print(
                    f"repetition {repetition + 1}: {len(texts)} texts",
                    {n: round(run[n]["ratio"], 3) for n in kinds},
                    flush=True,
                )
    ratios = {name: statistics.median(run[name]["ratio"] for run in runs) for name in kinds}
    steps = list(runs[0]["default"]["steps"])
    lines = [
        f"{len(texts)} distinct chunk texts; bare encode {statistics.median(run['bare'] for run in runs):.1f} s",
        measuring.table(
            [
                [
                    name,
                    resolve_dtype(kinds[name]),
                    *(
                        statistics.median(r[name][key] for r in runs)
                        for key in ("seconds", "cpu", "index_cpu", "ratio")
                    ),
                ]
                for name in kinds
            ],
            ["configuration", "arithmetic", "seconds", "cpu s", "index cpu s", "ratio to bare encode"],
        ),
        "",
        measuring.table(
            [[name, *(statistics.median(r[name]["steps"][step] for r in runs) for step in steps)] for name in kinds],
            ["seconds of step", *steps],
        ),
    ]
    measuring.tell({"texts": len(texts), "ratios": ratios, "runs": runs}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
