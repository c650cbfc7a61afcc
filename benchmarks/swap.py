"""How long a swap and a rollback take, twenty of each: `python -m benchmarks.swap`.

Each round changes one document of some thousands and updates, then goes back to the snapshot before. The swap is timed
from the first act (the entry in the audit log) to the last (the record of what is live); the rollback also as the
whole command's library time.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import corpora, job, measuring
from benchmarks.stand_in import write_stand_in
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.home import Home
from pipelines.project import Project
from pipelines.update.snapshot.rollback import rollback


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--documents", type=int, default=5_000)
    options = parser.parse_args()
    swaps, back, whole = [], [], []
    with measuring.scratch(options.folder) as folder:
        home, records = Home(folder / "home"), folder / "documents.jsonl"
        encoder = EncoderConfig(model=str(write_stand_in(folder / "stand-in")), dtype="float32")
        config = corpora.records_config(folder, records, encoder=encoder.model_dump(exclude_defaults=True))
        load_encoder(encoder)
        documents = list(corpora.short_documents(options.documents))
        _write(records, documents)
        job.update(config, home)
        for number in range(options.rounds):
            documents[0]["text"] += f" Edit number {number}."
            _write(records, documents)
            update = job.update(config, home, run_id=f"swap-{number}")
            swaps.append(update.promotion.swap_seconds)
            report = rollback(Project.open(config, home), update.promotion.previous, run_id=f"back-{number}")
            if report.rebuilt:
                raise SystemExit("the rollback had to build the rows again: its slot was not kept")
            back.append(report.swap_seconds)
            whole.append(report.seconds)
    rows = [
        [name, sorted(values)[len(values) // 2], max(values)]
        for name, values in (("swap", swaps), ("swap of a rollback", back), ("whole rollback", whole))
    ]
    lines = [
        f"{options.rounds} of each, {options.documents:,} documents",
        "",
        measuring.table(rows, ["what", "median s", "longest s"]),
    ]
    measuring.tell({"swap": swaps, "rollback_swap": back, "rollback": whole}, lines, as_json=options.json)


def _write(path: Path, documents: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in documents), encoding="utf-8")


if __name__ == "__main__":
    main()
