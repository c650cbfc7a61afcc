"""`make demo`: the main job on the demo corpus, told step by step. Works on a copy; running it again starts afresh."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from jobs.run import run_job
from pipelines.cli import summary
from pipelines.cli.console import progress_bars
from pipelines.definitions import defs
from pipelines.home import Home
from pipelines.identity import fingerprint
from pipelines.index.server import stop_server
from pipelines.lake import dead_letters
from pipelines.project import Project
from pipelines.retrieval.asker import Asker
from pipelines.retrieval.search import Hit
from pipelines.retrieval.snippet import snippet
from pipelines.update.snapshot.rollback import rollback
from pipelines.update.snapshot.verify import verify

HERE = Path(__file__).resolve().parent
STORY: dict[str, Any] = yaml.safe_load((HERE / "demo" / "demo_changes.yaml").read_text(encoding="utf-8"))
QUESTIONS = {question["id"]: question["question"] for question in STORY["questions"]}


class Demo:
    """The demo's copy of the corpus, its configuration and its data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = folder / "corpus"
        self.config = folder / "lockstep.yaml"
        self.home = Home(folder / "data")

    def prepare(self) -> None:
        """A fresh copy of everything, whatever an earlier demo left."""
        if self.home.root.exists():
            stop_server(self.home)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(HERE / "corpus", self.corpus)
        text = (HERE.parent / "lockstep.yaml").read_text(encoding="utf-8")
        self.config.write_text(text.replace("examples/corpus", "corpus"), encoding="utf-8")

    def update(self) -> dict[str, Any]:
        """The job incremental_update, as `lockstep update` runs it."""
        with progress_bars() as bars:
            outcome = run_job(defs, "incremental_update", self.config, self.home, on_progress=bars.update)
        told = summary.of_update(outcome)
        say(*(f"  {line}" for line in summary.lines(told)))
        if not summary.went_well(outcome):
            say(*summary.complaints(outcome))
            sys.exit(1)
        return told

    def ask(self, question: str, people: Sequence[str] = tuple(STORY["people"])) -> dict[str, list[Hit]]:
        """One question as several people; the best hit of each is shown."""
        say(f"\n  {question}")
        answers = {}
        for person in people:
            who = STORY["people"][person]
            hits = self.asker.ask([question], who["as"], k=3).hits[0]
            answers[person] = hits
            say(f"    {who['name']:<20} {shown(hits, question)}")
        return answers

    @cached_property
    def asker(self) -> Asker:
        """Asks whatever is live now."""
        return Asker(self.project)

    @cached_property
    def project(self) -> Project:
        """The demo as a project."""
        return Project.open(self.config, self.home)


def say(*lines: str) -> None:
    """Lines of the story."""
    for line in lines:
        print(line, flush=True)


def chapter(number: int, title: str) -> None:
    """The head of one step of the story."""
    say(f"\n{number}. {title}")


def shown(hits: Sequence[Hit], question: str) -> str:
    """The best hit and what it says."""
    if not hits:
        return "finds nothing"
    passage = snippet(hits[0].text[hits[0].body_start :], question, width=220)
    return f"{hits[0].uri}\n" + textwrap.fill(passage, 108, initial_indent=" " * 8, subsequent_indent=" " * 8)


def says(hits: Sequence[Hit], fact: str) -> bool:
    """Whether the best hit holds that fact."""
    return bool(hits) and fact in " ".join(hits[0].text.split())


def main() -> None:
    """Tell the story."""
    started = time.perf_counter()
    demo = Demo(Path(os.environ.get("LOCKSTEP_HOME", ".lockstep")).absolute() / "demo")
    demo.prepare()
    edit, delete = STORY["edit"], STORY["delete"]
    people = list(STORY["people"])
    person = people[0]

    chapter(1, "Build: 49 files in nine formats become a searchable, access-controlled, verified index")
    built = demo.update()
    for letter in dead_letters.open_letters(demo.project.lake).to_pylist():
        say(f"  dead letter {letter['uri']}: {letter['error_class']}, {letter['error']}")

    chapter(2, "Ask: the same questions as two people who may see different things")
    for question in QUESTIONS.values():
        demo.ask(question)

    chapter(3, f"Change: {edit['path']} is edited, {delete['path']} is deleted, one file is renamed")
    before = demo.ask(delete["question"], [person])[person]
    document = demo.corpus / edit["path"]
    text = document.read_text(encoding="utf-8")
    assert text.count(edit["old"]) == 1, "the demo's edit must fit the corpus"
    document.write_text(text.replace(edit["old"], edit["new"]), encoding="utf-8")
    (demo.corpus / delete["path"]).unlink()
    (demo.corpus / STORY["rename"]["from"]).rename(demo.corpus / STORY["rename"]["to"])
    say("\n  The update does only what the changes need:")
    changed = demo.update()

    chapter(4, "Ask again: the answer follows the document, and what was deleted is gone")
    after = demo.ask(QUESTIONS[edit["question"]], [person])[person]
    gone = demo.ask(delete["question"], [person])[person]

    chapter(5, "Verify: read the live index back and compare it with the tables")
    proof = verify(demo.project)
    say(f"  {'equal' if proof.ok else 'DIFFERENT'}: {proof.rows} rows, digest {proof.actual_digest[:32]}...")

    chapter(6, "Roll back: the snapshot before is live again, and so is the old answer")
    run_id = "demo-" + fingerprint("demo", {"random": os.urandom(8)})[:8]
    with demo.project.writer(run_id, "rollback"):
        back = rollback(demo.project, run_id=run_id)
    say(f"  snapshot {back.snapshot_id}, swapped in {back.swap_seconds * 1000:.0f} ms")
    old = demo.ask(QUESTIONS[edit["question"]], [person])[person]

    stop_server(demo.home)
    told = {
        "build": built,
        "update": changed,
        "verified": proof.ok,
        "answer_changed": says(after, edit["answer_after"]),
        "deleted_is_gone": any(h.uri == delete["path"] for h in before) and all(h.uri != delete["path"] for h in gone),
        "rolled_back": says(old, edit["answer_before"]),
        "swap_seconds": back.swap_seconds,
        "seconds": time.perf_counter() - started,
    }
    (demo.folder / "figures.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
    failed = [name for name in ("verified", "answer_changed", "deleted_is_gone", "rolled_back") if not told[name]]
    if failed:
        say(f"\nThe demo did not show what it should: {', '.join(failed)}")
        sys.exit(1)
    say(
        f"\nDone in {told['seconds']:.0f} s. Next:",
        "  make ui             this index in the Dagster web UI: assets, checks, runs",
        "  lockstep --help     the command line (in .venv/bin)",
        "  lockstep.yaml       point it at your own documents, then run `lockstep update`",
    )


if __name__ == "__main__":
    main()
