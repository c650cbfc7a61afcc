"""Retrieval quality on SciFact through the real command: `python -m benchmarks.retrieval`.

Builds the corpus with the default configuration, puts the 809 training queries to `lockstep query --batch` in each
mode as a member of `group:research`, and lets ir-measures evaluate the TREC runs. With `--folder` the build is kept,
and found again by the next call.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ir_measures
from ir_measures import R, nDCG

from benchmarks import corpora, job, measuring
from pipelines.home import Home

MODES = ("bm25", "dense", "hybrid")
TARGETS = {"bm25": "0.67", "dense": "0.60", "hybrid": "better of the two + 0.02"}


def judgements() -> list[ir_measures.Qrel]:
    with (corpora.SCIFACT / "qrels.train.tsv").open(encoding="utf-8") as file:
        return [
            ir_measures.Qrel(row["query_id"], row["doc_id"], int(row["relevance"]))
            for row in csv.DictReader(file, delimiter="\t")
        ]


def ask(config: Path, home: Home, questions: Path, mode: str, depth: int) -> tuple[str, float]:
    """The TREC run that the command prints, and the seconds it took with everything."""
    command = [str(Path(sys.executable).with_name("lockstep")), "query", "--config", str(config)]
    command += ["--batch", str(questions), "--as", corpora.READERS["staff"], "--format", "trec"]
    command += ["--mode", mode, "--k", str(depth)]
    with measuring.timed() as took:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, "LOCKSTEP_HOME": str(home.root)}
        )
    return done.stdout, took.wall


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--depth", type=int, default=10, help="documents a question")
    options = parser.parse_args()
    with measuring.scratch(options.folder) as folder:
        home = Home(folder / "home")
        records, questions = folder / "corpus.jsonl", folder / "questions.tsv"
        if not records.exists():
            corpora.write_records(records, corpora.scifact())
        config = corpora.records_config(folder, records)
        texts = corpora.scifact_questions()
        questions.write_text("".join(f"{key}\t{' '.join(text.split())}\n" for key, text in texts), encoding="utf-8")
        built = job.update(config, home)
        qrels = judgements()
        results: dict[str, Any] = {}
        for mode in MODES:
            run, seconds = ask(config, home, questions, mode, options.depth)
            found = list(ir_measures.read_trec_run(run))
            measured = ir_measures.calc_aggregate([nDCG @ 10, R @ 10], qrels, found)
            results[mode] = {
                "ndcg@10": measured[nDCG @ 10],
                "recall@10": measured[R @ 10],
                "answered": len({one.query_id for one in found}),
                "ms_a_question": 1_000 * seconds / len(texts),
            }
    lines = [
        f"{built.candidate.documents} documents, {built.candidate.rows} rows, {len(texts)} questions",
        "",
        measuring.table(
            [[mode, *results[mode].values(), TARGETS[mode]] for mode in MODES],
            ["mode", "nDCG@10", "recall@10", "answered", "ms a question, all in", "target nDCG@10"],
        ),
    ]
    measuring.tell({"results": results, "rows": built.candidate.rows}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
