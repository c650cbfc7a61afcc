"""Replays consecutive commits of a real site, one update a commit: `python -m benchmarks.history_replay`.

748 commits, with the deletion of 633 files at once and the renaming of 116 among them. Each commit's paths become
hints, as watching the folder would give, and one update takes them without a listing. Checked at every commit: texts
encoded = new text hashes. At 20 random commits: a listing finds nothing more, and the digest is that of a clean full
build in a fresh data folder, with an index process of its own. The guard must ask at the two commits that take away
more than it allows (one deletes 633 files, one renames a third of them); that is answered, and nothing else is asked.

The sum of work (appending hints, every update, maintenance, refused attempts too) is compared with a rebuild at every
commit. A rebuild's cost is that of the clean builds, per distinct text, taken between the nearest two of them. Of the
clean builds `--encode-clean` encode everything; the others get the vectors as a cache would hold them, so that their
digest is checked and the rest of their time is measured; a rebuild that encodes costs that and the encoding of all its
texts at the rate of the former.

Small steps: `--commits 30 --samples 3`. With `--folder` a replay that was interrupted goes on.
"""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import corpora, history, job, measuring
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.errors import MassDeletionRefused
from pipelines.home import Home
from pipelines.index.server import ensure_server, stop_server
from pipelines.lake.events import Event
from pipelines.lake.manifest import active_documents
from pipelines.project import Project
from pipelines.update.applying import approvals
from pipelines.update.deriving.chunks import chunks_wanted
from pipelines.update.looking.observe import observe
from pipelines.update.snapshot.verify import verify

SOURCE = "files"
Row = dict[str, Any]
COSTS = ("seconds", "cpu")  # `cpu` is processor time of this process, its children and the index


class Replay:
    """The data folder that follows the commits, and a journal of what each one cost."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.home = folder, folder / "files", Home(folder / "home")
        self.files.mkdir(exist_ok=True)
        # A year goes by in minutes: what is deleted over weeks must not count as deleted at once.
        self.config = corpora.files_config(folder, self.files, guard={"window_seconds": 0})
        self.journal = folder / "journal.jsonl"
        self.rows: list[Row] = []
        if self.journal.is_file():
            self.rows = [json.loads(line) for line in self.journal.read_text(encoding="utf-8").splitlines()]
        self._encoded = self._vectors()

    def _vectors(self) -> set[str]:
        """Hashes of the texts that have a vector."""
        return set(self.project().lake.read("embeddings", ["text_hash"])["text_hash"].to_pylist())

    def note(self, row: Row) -> None:
        """One more line of the journal."""
        self.rows.append(row)
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def project(self) -> Project:
        return Project.open(self.config, self.home)

    def first_build(self) -> None:
        """Of the files before the first commit."""
        self._note_update({"kind": "first"}, [self._update("first", scan=True)])

    def commit(self, commit: history.Commit, position: int) -> None:
        """The update that follows one commit; the guard's question is answered, once."""
        with measuring.timed(self.home) as hinting:
            project = self.project()
            project.events.append([Event(SOURCE, path, "changed", f"watch:{commit.commit}") for path in commit.paths])
            observe(project, SOURCE, run_id=commit.commit[:8], mode="hints")
        row: Row = {"kind": "commit", "position": position, "commit": commit.commit[:8]}
        runs: list[Any] = [hinting]
        try:
            runs.append(self._update(commit.commit[:8], scan=False))
        except MassDeletionRefused:
            row["refused"] = self._approve(commit)
            runs.append(row["refused"].pop("took"))
            runs.append(self._update(commit.commit[:8], scan=False))
        self._note_update(row | {"paths": len(commit.paths)}, runs)

    def _update(self, run_id: str, *, scan: bool, home: Home | None = None) -> job.Update:
        return job.update(self.config, home or self.home, run_id=run_id, scan=scan)

    def _approve(self, commit: history.Commit) -> Row:
        """The same update once more, to measure the refusal; then the operator's word."""
        before = self._served()
        with measuring.timed(self.home) as took:
            try:
                self._update("refused", scan=False)
            except MassDeletionRefused as error:
                message = str(error)
        asked = approvals.requests(self.project())
        held = self._served() == before
        answered = approvals.approve(self.project(), SOURCE, by="benchmark", run_id=commit.commit[:8])
        return {
            "message": message,
            "asked": [request.count for request in asked],
            "approved": answered.count,
            "nothing_changed": held,
            "removed_by_commit": len(commit.removed),
            "took": took,
        }

    def _served(self) -> tuple[str, int]:
        proof = verify(self.project())
        assert proof.ok, proof
        return proof.snapshot_id, self.project().lake.version("documents")

    def _note_update(self, row: Row, runs: list[Any]) -> None:
        """What the update and what belongs to it took, and whether it encoded what was new."""
        done: job.Update = runs[-1]
        project = self.project()
        documents = active_documents(project.lake)
        hashes = {text for part in chunks_wanted(project, documents) for text in part["text_hash"].to_pylist()}
        new = hashes - self._encoded
        self._encoded |= hashes
        total = {name: sum(_cost(run, name) for run in runs) for name in COSTS}
        facts = {
            "digest": done.candidate.digest,
            "documents": documents.num_rows,
            "texts": len(hashes),
            "rows": done.candidate.rows,
            "encoded": done.encoded.encoded,
            "new_texts": len(new),
            "build": done.candidate.kind if done.candidate.built else "nothing",
            "steps": done.steps,
        }
        self.note({**row, **total, **facts})

    def maintain(self, position: int) -> None:
        """What the weekly job does, as part of the work."""
        from pipelines.update.upkeep.maintenance import maintain

        with measuring.timed(self.home) as took:
            project = self.project()
            with project.writer("maintenance", "maintenance"):
                report = maintain(project, run_id="maintenance")
        self._encoded = self._vectors()  # what no snapshot that is kept needs is gone
        self.note({"kind": "maintenance", "position": position, **_costs(took), "report": str(report)})

    def check(self, position: int, *, encode: bool) -> None:
        """A listing finds nothing, and a clean build of the same files has the same digest."""
        listed = self._update("scan", scan=True)
        live = verify(self.project())
        clean = Home(self.folder / "clean")
        shutil.rmtree(clean.root, ignore_errors=True)
        if not encode:
            shutil.copytree(self.home.lake / "embeddings", clean.lake / "embeddings")
        ensure_server(clean, linger=False)
        try:
            built = self._update("clean", scan=True, home=clean)
        finally:
            stop_server(clean)
            shutil.rmtree(clean.root, ignore_errors=True)
        same = built.candidate.digest == live.actual_digest == live.expected_digest
        self.note(
            {
                "kind": "sample",
                "position": position,
                **_costs(built.took),
                "encoded": built.encoded.encoded,
                "texts": built.encoded.total,
                "encode_seconds": built.steps["encode"],
                "steps": built.steps,
                "digest": built.candidate.digest,
                "same": same,
                "verified": live.ok,
                "scan_found_nothing": not listed.candidate.built and not listed.manifest.committed,
                "scan_seconds": listed.took.wall,
                "problem": "" if same else str(asdict(live)),
            }
        )


def _cost(run: Any, name: str) -> float:
    return _costs(run.took if isinstance(run, job.Update) else run)[name]


def _costs(took: measuring.Took) -> dict[str, float]:
    return {"seconds": took.wall, "cpu": took.cpu + took.index_cpu}


def replay(
    work: Replay, every: list[history.Commit], span: tuple[int, int], samples: dict[int, bool], maintain_every: int
) -> None:
    """All commits of the span that the journal does not have yet."""
    done = {(row["kind"], row.get("position")) for row in work.rows}
    with history.contents(work.folder) as read:
        if ("first", None) not in done:
            history.begin(every, span[0], read, work.files)
            work.first_build()
        for position in range(*span):
            if ("commit", position) not in done:
                history.apply(every[position], read, work.files)
                work.commit(every[position], position)
            if position in samples and ("sample", position) not in done:
                work.check(position, encode=samples[position])
                _say(work, span)
            due = maintain_every and (position - span[0] + 1) % maintain_every == 0
            if due and ("maintenance", position) not in done:
                work.maintain(position)


def _say(work: Replay, span: tuple[int, int]) -> None:
    row = work.rows[-1]
    told = f"digest {'as' if row['same'] else 'NOT AS'} that of a clean build of {row['texts']} texts"
    print(f"commit {row['position'] - span[0] + 1} of {span[1] - span[0]}: {told}, {row['seconds']:.1f} s", flush=True)


def evaluate(work: Replay) -> Row:
    """The figures, from the journal."""
    commits = [row for row in work.rows if row["kind"] == "commit"]
    upkeep = [row for row in work.rows if row["kind"] == "maintenance"]
    samples = sorted((row for row in work.rows if row["kind"] == "sample"), key=lambda row: row["position"])
    refused = [{"commit": row["commit"], **row["refused"]} for row in commits if "refused" in row]
    ratios = {name: _ratio(commits, upkeep, samples, name) for name in COSTS} if samples else {}
    return {
        "commits": len(commits),
        "from": commits[0]["commit"],
        "to": commits[-1]["commit"],
        "changed_paths": sum(row["paths"] for row in commits),
        "encoded": sum(row["encoded"] for row in commits),
        "encoded_is_new_at_every_commit": all(row["encoded"] == row["new_texts"] for row in commits),
        "builds": {kind: sum(row["build"] == kind for row in commits) for kind in ("incremental", "full", "nothing")},
        "samples": len(samples),
        "samples_that_encoded_everything": sum(row["encoded"] == row["texts"] > 0 for row in samples),
        "digests_equal": sum(row["same"] and row["verified"] for row in samples),
        "scans_that_found_nothing": sum(row["scan_found_nothing"] for row in samples),
        "refused": refused,
        "asked_only_where_expected": {one["commit"] for one in refused} <= {history.MASS_DELETE, history.MASS_RENAME},
        "median_update_seconds": float(np.median([row["seconds"] for row in commits])),
        "slowest_update_seconds": max(row["seconds"] for row in commits),
        "maintenance": len(upkeep),
        "ratios": ratios,
    }


def _ratio(commits: list[Row], upkeep: list[Row], samples: list[Row], name: str) -> Row:
    """Sum of work over the sum of a rebuild at every commit: one that encodes all texts, and one that finds them."""
    at = [row["position"] for row in samples]
    whole = [row for row in samples if row["encoded"]]
    # Of a sample that found its vectors the whole time is what is not encoding; of the others processor time is split
    # as the seconds are.
    rest = [row[name] * (1 - (row["encode_seconds"] / row["seconds"] if row["encoded"] else 0.0)) for row in samples]
    rest_per_text = [cost / max(row["texts"], 1) for cost, row in zip(rest, samples, strict=True)]
    cached = sum(float(np.interp(row["position"], at, rest_per_text)) * row["texts"] for row in commits)
    work = sum(row[name] for row in commits) + sum(row[name] for row in upkeep)
    result = {"work": work, "maintenance": sum(row[name] for row in upkeep), "rebuilding_with_vectors_at_hand": cached}
    if whole:
        per_text = [row[name] * row["encode_seconds"] / row["seconds"] / row["texts"] for row in whole]
        where = [row["position"] for row in whole]
        encoding = sum(float(np.interp(row["position"], where, per_text)) * row["texts"] for row in commits)
        result |= {"rebuilding": cached + encoding, "ratio": work / (cached + encoding)}
    return result | {"ratio_with_vectors_at_hand": work / cached}


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--commits", type=int, help="only so many, from the same first one (default: all 748)")
    parser.add_argument("--samples", type=int, default=20, help="commits at which a clean build is made")
    parser.add_argument("--encode-clean", type=int, default=20, help="of these, how many encode everything")
    parser.add_argument("--maintain-every", type=int, default=50, help="commits between two maintenance runs; 0: none")
    parser.add_argument("--seed", type=int, default=4)
    options = parser.parse_args()
    every = history.commits()
    span = history.window(every, options.commits)
    drawn = sorted(random.Random(options.seed).sample(range(*span), min(options.samples, span[1] - span[0])))
    encoding = set(np.linspace(0, len(drawn) - 1, min(options.encode_clean, len(drawn))).round().astype(int).tolist())
    samples = {position: number in encoding for number, position in enumerate(drawn)}
    with measuring.scratch(options.folder) as folder:
        load_encoder(EncoderConfig()).encode(["warm up"] * 4)
        work = Replay(folder)
        replay(work, every, span, samples, options.maintain_every)
        result = evaluate(work)
    lines = [f"{key}: {value}" for key, value in result.items() if key != "ratios"]
    costs = result["ratios"].items()
    keys = list(dict.fromkeys(key for _, one in costs for key in one))
    lines += ["", measuring.table([[n, *(one.get(k, "-") for k in keys)] for n, one in costs], ["cost", *keys])]
    measuring.tell(result, lines, as_json=options.json)


if __name__ == "__main__":
    main()
