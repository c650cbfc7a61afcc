"""From a changed file, or what a source is told, to an answer that has it, while `lockstep ui` follows by itself.

    python -m benchmarks.latency [--changes 30] [--also kafka s3 webhook] [--gap 2 12]

The clock starts when the file is written (a message is flushed, an object's notification sent, a call answered) and
stops when a query through the library first finds the new text. The breakdown comes from Dagster's own events and from
the stamps of `document_versions`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.following import Following, RunTimes, following, run_times, wait_for, wait_until_live
from benchmarks.measuring import machine, scratch
from benchmarks.producers import KINDS, Producer, start_receiver
from pipelines.home import Home
from pipelines.index.server import stop_server

ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Change:
    """One change and when what happened to it; seconds since the epoch."""

    source: str
    uri: str
    word: str
    changed: float
    searchable: float
    detected: float
    durable: float
    run: RunTimes | None

    @property
    def seconds(self) -> float:
        return self.searchable - self.changed

    def parts(self) -> dict[str, float]:
        """Where the time went, in the order in which it went there."""
        if self.run is None:
            return {}
        marks = [
            ("noticed", self.detected),
            ("requested", self.run.requested),
            ("dequeued", self.run.dequeued),
            ("process", self.run.process),
            ("manifest", self.run.steps["manifest"][1]),
            ("derived", self.run.steps["embeddings"][1]),
            ("candidate", self.run.steps["index_snapshots"][1]),
            ("promoted", self.run.steps["live_index"][1]),
        ]
        found, last = {}, self.changed
        for name, at in marks:
            found[name] = at - last
            last = at
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--gap", type=float, nargs=2, default=(2.0, 12.0), metavar=("LEAST", "MOST"))
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--also", nargs="+", choices=KINDS, default=(), help="other sources, whose turn it is as often")
    parser.add_argument("--keep", type=Path, help="work there, and leave it")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.keep or stack.enter_context(scratch())
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / "examples" / "corpus", folder / "corpus", dirs_exist_ok=True)
        home = Home(folder / "home")
        producers = [KINDS[kind](folder / kind, stack) for kind in options.also]
        config = _configured(folder, producers)
        stack.callback(stop_server, home)
        environ = {name: value for one in producers for name, value in one.environ.items()}
        ui = stack.enter_context(following(config, home, folder / "ui.log", environ))
        if any(one.receives for one in producers):
            start_receiver(config, {**environ, "LOCKSTEP_HOME": str(home.root)}, stack)
        print("waiting until the first snapshot is live ...", flush=True)
        wait_until_live(ui)
        time.sleep(10)  # until streams are open and the warm process has imported everything
        found = measure(ui, folder / "corpus", producers, options.changes, options.gap, options.seed)
        report(found)


def _configured(folder: Path, producers: Sequence[Producer]) -> Path:
    configuration: dict[str, Any] = yaml.safe_load((ROOT / "lockstep.yaml").read_text())
    configuration["sources"][0]["path"] = "corpus"
    configuration["sources"] += [one.section for one in producers]
    path = folder / "lockstep.yaml"
    path.write_text(yaml.safe_dump(configuration))
    return path


def measure(
    ui: Following,
    corpus: Path,
    producers: Sequence[Producer],
    changes: int,
    gap: tuple[float, float],
    seed: int,
) -> list[Change]:
    """Make changes at random gaps, one after the other, each found before the next gap begins."""
    dice = random.Random(seed)
    documents = sorted(path for path in (corpus / "company").rglob("*.md"))
    asker = ui.asker()
    asker.ask(["leave"], ui.principals)  # loads the encoder of this process
    found = []
    for number in range(changes):
        time.sleep(dice.uniform(*gap))
        word = f"zq{time.time_ns():x}"  # never one of an earlier measurement in a folder that was kept
        text = f"The code name of matter {number} is {word}.\n"
        turn = number % (len(producers) + 1)
        if turn:
            source, uri = producers[turn - 1].name, f"note-{number}.md"
            producers[turn - 1].produce(uri, f"# Note {number}\n\n{text}")
        elif number % 3 == 2:
            source, uri = "handbook", f"company/new-{number}.md"
            (corpus / uri).write_text(f"# Note {number}\n\n{text}")
        else:
            path = dice.choice(documents)
            source, uri = "handbook", str(path.relative_to(corpus))
            path.write_text(path.read_text() + f"\n{text}")
        changed = time.time()
        searchable = wait_for(f"{uri} with {word}", partial(_found, ui, asker, word), seconds=_PATIENCE_SECONDS)
        found.append(_traced(ui, source, uri, word, changed, searchable))
        print(f"{number:>3} {source:<9} {found[-1].seconds:6.2f} s  " + _parts(found[-1].parts()), flush=True)
    return found


def _found(ui: Following, asker: Any, word: str) -> float | None:
    ui.check()
    answer = asker.ask([f"code name {word}"], ui.principals, k=5, mode="bm25")
    return time.time() if any(word in hit.text for hit in answer.hits[0]) else None


def _traced(ui: Following, source: str, uri: str, word: str, changed: float, searchable: float) -> Change:
    import pyarrow.compute as pc

    lake = ui.project.lake
    where = (pc.field("source") == source) & (pc.field("uri") == uri)
    row = lake.read("documents", ["detected_at", "updated_at", "run_id"], where=where).to_pylist()[0]

    def ended() -> RunTimes | None:
        with ui.instance() as instance:
            run = instance.get_run_by_id(row["run_id"])
            return run_times(instance, row["run_id"]) if run is not None and run.is_success else None

    run = wait_for(f"the end of run {row['run_id']}", ended, seconds=60, pause=0.2)
    detected = row["detected_at"].timestamp() if row["detected_at"] else changed
    return Change(source, uri, word, changed, searchable, detected, row["updated_at"].timestamp(), run)


def _parts(parts: dict[str, float]) -> str:
    return "  ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())


def report(found: list[Change]) -> None:
    """Quantiles in all and by source, and the median of each part of the way."""
    seconds = [one.seconds for one in found]
    parts = [one.parts() for one in found if one.run is not None]
    told = {
        "machine": machine(),
        "changes": len(found),
        "p50_seconds": round(float(np.quantile(seconds, 0.5)), 2),
        "p95_seconds": round(float(np.quantile(seconds, 0.95)), 2),
        "worst_seconds": round(max(seconds), 2),
        "by_source": {
            name: round(float(np.median([one.seconds for one in found if one.source == name])), 2)
            for name in sorted({one.source for one in found})
        },
        "parts_p50_seconds": {
            name: round(float(np.median([part[name] for part in parts])), 2) for name in (parts[0] if parts else {})
        },
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
