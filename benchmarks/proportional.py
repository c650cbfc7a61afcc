"""Whether an update costs what has changed, and not what there is: `python -m benchmarks.proportional`.

Two corpora of short generated files are built, each in a process of its own with a stand-in encoder. Then, in turn at
both sizes: ten files are edited and announced, looked at without a listing, and an update applies that; an update lists
everything and finds nothing; one lists everything and finds ten edits. At last the smaller corpus gets many updates of
ten edits each, and what grows is told. The library's own time, without Dagster and without expectations.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import corpora, job, measuring
from benchmarks.stand_in import write_stand_in
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.home import Home
from pipelines.lake import files
from pipelines.lake.events import Event
from pipelines.lake.schemas import TABLES
from pipelines.project import Project
from pipelines.update.looking.observe import observe
from pipelines.update.snapshot.verify import verify

SIZES = (10_000, 300_000)
EDITED = 10
_FOLDERS = 500
_SOURCE = "files"
_MEGABYTE = 2**20


class Corpus:
    """A folder of generated files and the installation that follows it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self.files, self.home = folder / "files", Home(folder / "home")
        encoder = EncoderConfig(model=str(write_stand_in(folder / "stand-in")), dtype="float32")
        self.config = corpora.files_config(folder, self.files, encoder=encoder.model_dump(exclude_defaults=True))
        self._edits = 0
        load_encoder(encoder).encode(["warm up"] * 4)

    def write(self) -> None:
        """Every file, as written a while ago."""
        for number, record in enumerate(corpora.short_documents(self.count)):
            path = self.path(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {record['title']}\n\n{record['text']}\n", encoding="utf-8")
            corpora.age(path)

    def path(self, number: int) -> Path:
        return self.files / f"{number % _FOLDERS:03d}" / f"{number}.md"

    def edit(self) -> list[str]:
        """Change ten files from all over the corpus; their uris."""
        self._edits += 1
        uris = []
        for turn in range(EDITED):
            path = self.path((self._edits * 7_919 + turn * 104_729) % self.count)
            text = path.read_text(encoding="utf-8").partition("\n\nEdition")[0]
            path.write_text(f"{text}\n\nEdition {self._edits} of this file.\n", encoding="utf-8")
            corpora.age(path, seconds=60 + self._edits)
            uris.append(path.relative_to(self.files).as_posix())
        return uris


def build(folder: Path, count: int) -> dict[str, Any]:
    """Build a corpus from nothing; what it took."""
    corpus = Corpus(folder, count)
    corpus.write()
    with measuring.PeakMemory(corpus.home) as memory:
        done = job.update(corpus.config, corpus.home, watched=memory)
    assert done.manifest.added == count, done.manifest
    return {
        "documents": count,
        "rows": done.candidate.rows,
        "seconds": done.took.wall,
        "steps": done.steps,
        "step_memory": done.memory,
        "memory": {name: getattr(memory, name) for name in ("own", "workers", "together", "index")},
        "peak_at": memory.where,
        "tables": {name: _table(corpus, name) for name in TABLES},
    }


def announced(corpus: Corpus, *, index: bool = True) -> dict[str, Any]:
    """Ten edits, announced: what the look and the update took and wrote; without `index`, up to the vectors."""
    uris = corpus.edit()
    project = Project.open(corpus.config, corpus.home)
    project.events.append([Event(_SOURCE, uri, "changed", f"bench:{time.time_ns()}") for uri in uris])
    before = _bytes(corpus)
    started = time.perf_counter()
    found = observe(project, _SOURCE, run_id="bench", mode="hints").found
    looked = time.perf_counter() - started
    assert found == EDITED, found
    if not index:
        steps = job.tables(corpus.config, corpus.home)
        took = looked + sum(steps.values())
        return {"seconds": took, "bytes": _bytes(corpus) - before, "steps": {"look": looked, **steps}}
    done = job.update(corpus.config, corpus.home, scan=False)
    assert done.manifest.changed == EDITED, done.manifest
    return {
        "seconds": looked + done.took.wall,
        "cpu": done.took.cpu,
        "bytes": _bytes(corpus) - before,
        "steps": {"look": looked, **done.steps},
        "kind": done.candidate.kind,
    }


def listed(corpus: Corpus, *, edits: bool) -> dict[str, Any]:
    """An update that lists everything, with ten edits or none."""
    if edits:
        corpus.edit()
    done = job.update(corpus.config, corpus.home)
    assert done.manifest.changed == (EDITED if edits else 0), done.manifest
    return {"seconds": done.took.wall, "steps": done.steps}


def many(corpus: Corpus, updates: int) -> Iterator[dict[str, Any]]:
    """What updates of ten edits take and leave behind, a tenth of them at a time."""
    each = max(1, updates // 10)
    for start in range(0, updates, each):
        took = [announced(corpus) for _ in range(each)]
        yield {
            "updates": start + each,
            "seconds": median(one["seconds"] for one in took),
            "bytes_each": median(one["bytes"] for one in took),
            "tables": {name: _table(corpus, name) for name in TABLES},
        }


def _table(corpus: Corpus, name: str) -> dict[str, int]:
    sizes = Project.open(corpus.config, corpus.home).lake.file_sizes(name)
    return {"files": len(sizes), "bytes": sum(sizes)}


def _bytes(corpus: Corpus) -> int:
    return files.disk_bytes(corpus.home.lake)


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs=2, default=list(SIZES))
    parser.add_argument("--repeat", type=int, default=5, help="announced changes at each size, in turn")
    parser.add_argument("--updates", type=int, default=500, help="of the smaller corpus, at the end; 0: none")
    parser.add_argument("--built", action="store_true", help="measure what an earlier run left in --folder")
    parser.add_argument("--tables", action="store_true", help="with --built: announced changes up to the vectors alone")
    parser.add_argument("--verify", action="store_true", help="read both indexes back at the end")
    parser.add_argument("--one", type=int, help="build this size in this process (what each size is run as)")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(build(options.folder, options.one)))
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # products this small are slower on two threads than on one
    with measuring.scratch(options.folder) as folder:
        result = _compare(folder, options)
    measuring.tell(result, _lines(result), as_json=options.json)


def _compare(folder: Path, options: Any) -> dict[str, Any]:
    builds = []
    for size in () if options.built else options.sizes:
        with measuring.scratch(folder / str(size)):
            command = [sys.executable, "-m", "benchmarks.proportional", "--one", str(size)]
            done = subprocess.run(
                [*command, "--folder", str(folder / str(size))], check=True, stdout=subprocess.PIPE, text=True
            )
            builds.append(json.loads(done.stdout.strip().splitlines()[-1]))
            sys.stderr.write(f"built {size} in {builds[-1]['seconds']:.0f} s\n")
    corpuses = [Corpus(folder / str(size), size) for size in options.sizes]
    small, large = corpuses
    with measuring.scratch(folder / str(small.count)), measuring.scratch(folder / str(large.count)):
        for corpus in corpuses:  # fills the second slot, which is still empty
            announced(corpus, index=not options.tables)
        changes: dict[int, list[dict[str, Any]]] = {corpus.count: [] for corpus in corpuses}
        for _ in range(options.repeat):
            for corpus in corpuses:
                changes[corpus.count].append(announced(corpus, index=not options.tables))
        if options.tables:
            return {
                "builds": builds,
                "announced": changes,
                "nothing_changed": {},
                "listed": {},
                "growth": [],
                "verified": {},
            }
        nothing = {corpus.count: listed(corpus, edits=False) for corpus in corpuses}
        edits = {corpus.count: listed(corpus, edits=True) for corpus in corpuses}
        growth = list(many(small, options.updates)) if options.updates else []
        proved = (
            {corpus.count: verify(Project.open(corpus.config, corpus.home)).ok for corpus in corpuses}
            if (options.verify)
            else {}
        )
    return {
        "builds": builds,
        "announced": changes,
        "nothing_changed": nothing,
        "listed": edits,
        "growth": growth,
        "verified": proved,
    }


def _lines(result: dict[str, Any]) -> list[str]:
    builds, changes = result["builds"], result["announced"]
    steps = list(next(iter(changes.values()))[0]["steps"])

    def middle(size: int, step: str) -> float:
        return float(median(one["steps"][step] for one in changes[size]))

    totals = {size: float(median(one["seconds"] for one in found)) for size, found in changes.items()}
    small, large = totals
    built = [
        measuring.table(
            [
                [
                    b["documents"],
                    b["seconds"],
                    1_000 * b["seconds"] / b["documents"],
                    *(b["memory"][name] // _MEGABYTE for name in ("own", "workers", "together", "index")),
                    sum(table["files"] for table in b["tables"].values()),
                ]
                for b in builds
            ],
            ["documents", "build s", "ms each", "own MiB", "workers MiB", "together MiB", "index MiB", "table files"],
        ),
        "",
        measuring.table(
            [
                [
                    b["documents"],
                    *(
                        value
                        for step in b["steps"]
                        for value in (b["steps"][step], b["step_memory"][step] // _MEGABYTE)
                    ),
                ]
                for b in builds
            ],
            ["build", *(head for step in (builds[0]["steps"] if builds else ()) for head in (f"{step} s", "MiB"))],
        ),
        "",
    ]
    lines = [
        *(built if builds else ()),
        measuring.table(
            [
                [
                    size,
                    totals[size],
                    *(middle(size, step) for step in steps),
                    float(median(one["bytes"] for one in found)) / _MEGABYTE,
                ]
                for size, found in changes.items()
            ],
            [f"{EDITED} announced", "seconds", *steps, "MiB written"],
        ),
        f"ratio: {totals[large] / totals[small]:.2f}",
    ]
    if result["listed"]:
        lines += [
            "",
            measuring.table(
                [
                    [
                        size,
                        result["nothing_changed"][size]["seconds"],
                        result["nothing_changed"][size]["steps"]["changes"],
                        result["listed"][size]["seconds"],
                        result["listed"][size]["steps"]["changes"],
                    ]
                    for size in totals
                ],
                ["listed", "no-op s", "of that looking", f"{EDITED} edited s", "of that looking"],
            ),
        ]
    lines += [f"the index of {size} reads back as the tables say: {ok}" for size, ok in result["verified"].items()]
    if result["growth"]:
        names = [name for name, table in result["growth"][-1]["tables"].items() if table["files"]]
        lines += [
            "",
            measuring.table(
                [
                    [
                        g["updates"],
                        g["seconds"],
                        g["bytes_each"] // 1024,
                        *(g["tables"][name]["files"] for name in names),
                    ]
                    for g in result["growth"]
                ],
                ["updates", "median s", "KiB each", *(f"{name} files" for name in names)],
            ),
        ]
    return lines


def _step(built: dict[str, Any], step: str) -> tuple[float, int]:
    return built["steps"][step], built["step_memory"][step] // _MEGABYTE


if __name__ == "__main__":
    main()
