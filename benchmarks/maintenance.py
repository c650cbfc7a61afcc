"""What maintenance gives back, and how long it takes: `python -m benchmarks.maintenance`.

The demo's corpus is updated many times, each time with some files edited, one renamed and one replaced, with a real
Milvus Lite and an encoder that costs little. Then maintenance runs twice, the second time with nothing to do. After it
the live index is verified, the oldest retained snapshot is brought back, and an update is compared with a clean build.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import yaml

from benchmarks import job, measuring
from benchmarks.stand_in import write_stand_in
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.home import Home
from pipelines.lake import blobs, snapshots
from pipelines.project import Project
from pipelines.update.snapshot.rollback import rollback
from pipelines.update.snapshot.verify import verify
from pipelines.update.upkeep.maintenance import MaintenanceReport, maintain

CORPUS = Path(__file__).resolve().parents[1] / "examples" / "corpus"


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--edits", type=int, default=4, help="text files edited an update")
    parser.add_argument("--retained", type=int, default=10, help="snapshots that stay")
    options = parser.parse_args()
    blobs._UNTOUCHED_SECONDS = 0.0  # else the blobs of the last hour would stay: here, all of them
    with measuring.scratch(options.folder) as folder:
        home = Home(folder / "home")
        encoder = EncoderConfig(model=str(write_stand_in(folder / "stand-in")), dtype="float32")
        load_encoder(encoder)
        config = _configure(folder, encoder, options.retained)
        started = time.perf_counter()
        for number in range(options.updates):
            if number:
                _edit(folder / "corpus", number, options.edits)
            job.update(config, home, run_id=f"update-{number}")
        updating = time.perf_counter() - started
        opened = _seconds_to_open(home)
        told = _maintained(config, home)
        opened_after = _seconds_to_open(home)
        again = _maintained(config, home)
        proof = _prove(config, home, folder)
    rows = [
        [table.table, table.rows, table.pruned_rows, table.removed_files, table.bytes_before, table.bytes_after]
        for table in told.tables
        if table.bytes_before
    ]
    lines = [
        f"{options.updates} updates in {updating:.0f} s, {options.edits} files edited in each; "
        f"{told.retained_snapshots} snapshots retained",
        "",
        measuring.table(rows, ["table", "rows left", "rows pruned", "files removed", "bytes before", "bytes after"]),
        "",
        f"blobs removed {told.pruned_blobs:,}; {told.reclaimed_bytes:,} of {told.bytes_before:,} bytes given back "
        f"({told.reclaimed_bytes / told.bytes_before:.0%}) in {told.seconds:.2f} s; with nothing to do "
        f"{again.seconds:.2f} s",
        f"all tables opened and counted in {opened * 1000:.0f} ms before, {opened_after * 1000:.0f} ms after",
        *proof,
    ]
    result = {
        "updates": options.updates,
        "seconds": told.seconds,
        "seconds_with_nothing_to_do": again.seconds,
        "reclaimed_bytes": told.reclaimed_bytes,
        "bytes_before": told.bytes_before,
        "bytes_after": told.bytes_after,
        "pruned_rows": told.pruned_rows,
        "pruned_blobs": told.pruned_blobs,
        "open_seconds": [opened, opened_after],
        "proof": proof,
    }
    measuring.tell(result, lines, as_json=options.json)


def _configure(folder: Path, encoder: EncoderConfig, retained: int) -> Path:
    shutil.copytree(CORPUS, folder / "corpus")
    access = [{"match": "**", "readers": ["group:staff"]}]
    sections = {
        "index": "bench",
        "encoder": encoder.model_dump(exclude_defaults=True),
        "retention": {"snapshots": retained, "history_days": 0},
        "guard": {"max_deleted_share": 1.0},  # a page is renamed in each update
        "sources": [{"name": "corpus", "kind": "filesystem", "path": "corpus", "access": access}],
    }
    path = folder / "lockstep.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def _edit(corpus: Path, number: int, edits: int) -> None:
    """Edit some text files, replace a page that was added, and rename another."""
    chance = random.Random(number)
    files = sorted(path for path in corpus.rglob("*") if path.suffix in (".md", ".txt", ".html"))
    for path in chance.sample(files, min(edits, len(files))):
        paragraphs = path.read_text(encoding="utf-8").split("\n\n")
        paragraphs.insert(chance.randrange(1, len(paragraphs) + 1), f"Note {number}: {chance.random()} was said.")
        path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    (corpus / f"page-{number % 7}.md").write_text(f"# Page\n\nWritten in update {number}.\n", encoding="utf-8")
    for path in corpus.glob("moved-*.md"):
        path.rename(corpus / f"moved-{number}.md")
        return
    (corpus / f"moved-{number}.md").write_text("# Moved\n\nThe same text each time.\n", encoding="utf-8")


def _maintained(config: Path, home: Home) -> MaintenanceReport:
    project = Project.open(config, home)
    with project.writer("maintenance", "benchmark"):
        return maintain(project, run_id="maintenance")


def _seconds_to_open(home: Home) -> float:
    from pipelines.lake.schemas import TABLES
    from pipelines.lake.tables import Lake

    started = time.perf_counter()
    lake = Lake(home.lake)
    for name in TABLES:
        lake.count(name)
    return time.perf_counter() - started


def _prove(config: Path, home: Home, folder: Path) -> list[str]:
    """That nothing retained was lost: sentences with the figures."""
    project = Project.open(config, home)
    if not verify(project).ok:
        raise SystemExit("the live index differs from the tables after maintenance")
    known = snapshots.history(project.lake, project.alias)
    newest = next(s for s in reversed(known) if s.status == "live")
    oldest = [s for s in known if s.status in ("live", "retired")][-project.config.retention.snapshots]
    with project.writer("back", "benchmark"):
        back = rollback(project, oldest.snapshot_id, run_id="back")
    found = verify(Project.open(config, home))
    if not found.ok or found.actual_digest != oldest.digest:
        raise SystemExit("the oldest retained snapshot did not come back as it was")
    _edit(folder / "corpus", 10_000, 1)
    update = job.update(config, home, run_id="next")
    clean = job.update(config, Home(folder / "clean"), run_id="clean", full=True)
    if clean.candidate.digest != update.candidate.digest:
        raise SystemExit("the update after maintenance differs from a clean build")
    return [
        f"the oldest retained snapshot (sequence {oldest.sequence} of {newest.sequence}) came back with its digest in "
        f"{back.seconds:.2f} s",
        f"the next update ({update.candidate.kind}) encoded {update.encoded.encoded} texts and equals a clean build",
    ]


if __name__ == "__main__":
    main()
