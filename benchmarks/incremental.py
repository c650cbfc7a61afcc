"""Updates of 2,000 files as ratios to the bare encoding of all of them: `python -m benchmarks.incremental`.

A full build, an update with nothing changed, 1% of the files edited (when the second slot is still empty, and twice
more), 100 files renamed, the readers of 1,000 documents changed, 20 files deleted; then the same no-op on 5,000 files
through `lockstep update --json`. Library time is everything from opening the project to the moved alias; models are
loaded before. The bare encode is sentence-transformers' default over all chunk texts, or over a random share of them
(`--share`), divided by that share of the tokens.

`--stand-in` takes an encoder that costs nothing, to look at everything else; the ratios then mean nothing.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks import corpora, job, measuring
from benchmarks.baseline import Bare
from benchmarks.command_line import command_line
from benchmarks.stand_in import write_stand_in
from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.home import Home
from pipelines.project import Project

BEST_OF_OTHERS = {"full build": 1.04, "nothing changed": 0.016, "1% edited, first": 0.037, "1% edited": 0.037}


class Scenario:
    """One corpus, and what happens to it."""

    def __init__(self, folder: Path, files: int, encoder: EncoderConfig, *, abstracts_only: bool) -> None:
        self.folder, self.files, self.home = folder, folder / "files", Home(folder / "home")
        self.sections: dict[str, Any] = {"encoder": encoder.model_dump(exclude_defaults=True)}
        self.texts = dict(corpora.markdown_texts(files, abstracts_only=abstracts_only))
        self.random = random.Random(5)
        self.rows: list[dict[str, Any]] = []
        corpora.write_files(self.files, list(self.texts.items()))
        self.config = corpora.files_config(folder, self.files, **self.sections)

    def update(self, name: str) -> job.Update:
        """Run one update and keep what it took, with the number of texts that it had to encode by the tables."""
        known = self._hashes()
        done = job.update(self.config, self.home, run_id=name.replace(" ", "-"))
        new = self._hashes() - known
        self.rows.append(
            {
                "what": name,
                "seconds": done.took.wall,
                "cpu": done.took.cpu,
                "index_cpu": done.took.index_cpu,
                "encoded": done.encoded.encoded,
                "new_texts": len(new),
                "commits": sum(done.commits.values()),
                "commits_by_table": done.commits,
                "index_writes": done.index_writes,
                "rows_written": done.candidate.upserted + done.candidate.deleted,
                "kind": done.candidate.kind if done.candidate.built else "nothing",
                "steps": done.steps,
            }
        )
        return done

    def _hashes(self) -> set[str]:
        """Text hashes of chunks that active documents have."""
        from pipelines.lake.manifest import active_documents
        from pipelines.update.deriving.chunks import chunks_wanted

        project = Project.open(self.config, self.home)
        wanted = chunks_wanted(project, active_documents(project.lake))
        return {text for part in wanted for text in part["text_hash"].to_pylist()}

    def edit(self, count: int, sentence: str) -> None:
        """A sentence more at the end of that many files."""
        for path in self.random.sample(sorted(self.texts), count):
            self.texts[path] += f"\n{sentence} ({self.random.random():.9f})\n"
            corpora.write_files(self.files, [(path, self.texts[path])])

    def rename(self, count: int) -> None:
        """Another name for that many files."""
        for path in self.random.sample(sorted(self.texts), count):
            new = f"renamed/{path.replace('/', '-')}"
            (self.files / new).parent.mkdir(exist_ok=True)
            (self.files / path).rename(self.files / new)
            self.texts[new] = self.texts.pop(path)

    def delete(self, count: int) -> None:
        """That many files less."""
        for path in self.random.sample(sorted(self.texts), count):
            (self.files / path).unlink()
            del self.texts[path]

    def restrict(self, count: int) -> None:
        """Other readers for about that many documents, by rules over their folders' names."""
        self.config = corpora.files_config(
            self.folder, self.files, board=_patterns(sorted(self.texts), count), **self.sections
        )


def _patterns(paths: list[str], count: int) -> list[str]:
    """Patterns of whole folders that together hold about that many paths."""
    folders: dict[str, int] = {}
    for path in paths:
        top = "/".join(path.split("/")[:2]) if path.count("/") > 1 else path
        folders[top] = folders.get(top, 0) + 1
    picked, held = [], 0
    for name, size in folders.items():
        if held < count:
            picked.append(name if size == 1 else f"{name}/**")
            held += size
    return picked


class BareEncode:
    """How long the default encode of all texts takes: random portions of them, divided by their share of the tokens.

    A portion right after the build and one at the end, so that what else the machine does is in both figures.
    """

    def __init__(self, texts: list[str], tokens: list[int], share: float) -> None:
        chosen = random.Random(11).sample(range(len(texts)), max(2, round(share * len(texts))))
        self._portions = [chosen[0::2], chosen[1::2]]
        self._texts, self._tokens = texts, tokens
        self._bare = Bare()
        self.seconds: list[float] = []

    def measure(self) -> None:
        """Encode the next portion; its seconds, for all texts, are added."""
        portion = self._portions[len(self.seconds)]
        share = sum(self._tokens[i] for i in portion) / sum(self._tokens)
        self.seconds.append(self._bare.seconds([self._texts[i] for i in portion]) / share)


def command_line_noop(folder: Path, files: int, encoder: EncoderConfig) -> dict[str, Any]:
    """The real command on that many unchanged files, each in a new process."""
    base = folder / "command-line"
    corpora.write_files(base / "files", corpora.markdown_texts(files, abstracts_only=True))
    config = corpora.files_config(base, base / "files", encoder=encoder.model_dump(exclude_defaults=True))
    answers = []
    with command_line(config, base / "home") as command:
        for _ in range(3):  # the build, then twice nothing
            took, answer = command.update()
            answers.append({"process_seconds": took.wall, "answer": answer})
    return {"files": files, "runs": answers}


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--noop-files", type=int, default=5_000, help="files of the no-op by command line, 0: none")
    parser.add_argument("--share", type=float, default=0.33, help="share of texts that the bare encode is measured on")
    parser.add_argument("--abstracts", action="store_true", help="abstracts alone, which are shorter than pages")
    parser.add_argument("--stand-in", action="store_true", help="an encoder that costs nothing")
    options = parser.parse_args()
    with measuring.scratch(options.folder) as folder:
        cheap = EncoderConfig(model=str(write_stand_in(folder / "stand-in")))
        encoder = cheap if options.stand_in else EncoderConfig()
        load_encoder(encoder).encode(["warm up"] * 4)
        scenario = Scenario(folder, options.files, encoder, abstracts_only=options.abstracts)
        bare = run_all(scenario, options.files, 0.0 if options.stand_in else options.share)
        noop = command_line_noop(folder, options.noop_files, cheap) if options.noop_files else None
    whole = sum(bare) / len(bare) if bare else float("nan")
    for row in scenario.rows:
        row["ratio"] = row["seconds"] / whole
        row["best_of_others"] = BEST_OF_OTHERS.get(row["what"])
    told = describe(scenario.rows, bare, noop)
    measuring.tell(
        {"files": options.files, "bare_seconds": bare, "updates": scenario.rows, "command_line": noop},
        told,
        as_json=options.json,
    )
    wrong = [row["what"] for row in scenario.rows if row["encoded"] != row["new_texts"]]
    if wrong:
        raise SystemExit(f"texts encoded differ from new texts in: {', '.join(wrong)}")


def run_all(scenario: Scenario, files: int, share: float) -> list[float]:
    """What happens to the corpus, one update each; returns what the bare encode of it took, measured twice."""
    one_percent = max(1, files // 100)
    scenario.update("full build")
    bare = BareEncode(*job.chunk_texts(scenario.config, scenario.home), share) if share else None
    if bare:
        bare.measure()
    scenario.update("nothing changed")
    scenario.edit(one_percent, "An amendment was made.")
    scenario.update("1% edited, first")
    scenario.update("nothing changed")
    for sentence in ("Another amendment.", "Yet another amendment."):
        scenario.edit(one_percent, sentence)
        scenario.update("1% edited")
    scenario.rename(files // 20)
    scenario.update("5% renamed")
    scenario.restrict(files // 2)
    scenario.update("half restricted")
    scenario.delete(one_percent)
    scenario.update("1% deleted")
    scenario.update("nothing changed")
    if bare:
        bare.measure()
    return bare.seconds if bare else []


def describe(rows: list[dict[str, Any]], bare: list[float], noop: dict[str, Any] | None) -> list[str]:
    """Tables for people."""
    lines = [
        f"bare encode, from portions of the texts: {', '.join(f'{s:.1f} s' for s in bare) or 'not measured'}",
        "",
        measuring.table(
            [
                [
                    r["what"],
                    r["seconds"],
                    r["cpu"],
                    r["ratio"],
                    r["best_of_others"] or "",
                    r["encoded"],
                    r["new_texts"],
                    r["commits"],
                    r["index_writes"],
                    r["rows_written"],
                    r["kind"],
                ]
                for r in rows
            ],
            [
                "update",
                "seconds",
                "cpu s",
                "ratio",
                "others",
                "encoded",
                "new texts",
                "commits",
                "index writes",
                "rows",
                "kind",
            ],
        ),
        "",
        measuring.table([[r["what"], *r["steps"].values()] for r in rows], ["seconds of step", *rows[0]["steps"]]),
    ]
    if noop:
        lines += ["", f"`lockstep update --json` on {noop['files']:,} files, a process each:"]
        lines += [
            measuring.table(
                [
                    [
                        what,
                        run["process_seconds"],
                        run["answer"]["seconds"]["total"],
                        run["answer"]["seconds"].get("expectations", 0.0),
                        run["answer"]["seconds"]["dagster"],
                    ]
                    for what, run in zip(("build", "no-op", "no-op"), noop["runs"], strict=True)
                ],
                ["command", "process s", "library s", "of it expectations", "Dagster's own"],
            )
        ]
    return lines


if __name__ == "__main__":
    main()
