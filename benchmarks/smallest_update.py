"""The smallest update as a person waits for it: `python -m benchmarks.smallest_update`.

A folder of 600 Markdown files is built with the default encoder. Then, in turn, one file is edited and `lockstep update
--json` runs, and it runs with nothing edited; each is a process of its own. Library time is what the steps took,
expectations included; wall time is that of the whole process. The first edit, for which the other slot is filled, is
told apart.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import corpora, measuring
from benchmarks.command_line import CommandLine, command_line

_ABOVE = 0.05  # seconds of a step that is worth a column


def run(folder: Path, files: int, repeat: int) -> list[dict[str, Any]]:
    """A build, an edit, and then edits and nothing in turn."""
    texts = dict(corpora.markdown_texts(files, abstracts_only=True))
    corpora.write_files(folder / "files", list(texts.items()))
    with command_line(corpora.files_config(folder, folder / "files"), folder / "home") as command:
        rows = [_row("build", command)]
        for turn, path in enumerate(sorted(texts)[: repeat + 1]):
            edited = f"{texts[path]}\nEdition {turn} of this file.\n"
            corpora.write_files(folder / "files", [(path, edited)])
            rows.append(_row("one edited" if turn else "one edited, first", command))
            assert rows[-1]["documents"]["changed"] == 1, rows[-1]
            if turn:
                rows.append(_row("nothing", command))
                assert not rows[-1]["documents"]["changed"], rows[-1]
    return rows


def _row(what: str, command: CommandLine) -> dict[str, Any]:
    took, answer = command.update()
    return {"what": what, "wall": took.wall, "cpu": took.cpu, **answer}


def main() -> None:
    parser = measuring.arguments(__doc__)
    parser.add_argument("--files", type=int, default=600)
    parser.add_argument("--repeat", type=int, default=7, help="edits after the first")
    options = parser.parse_args()
    with measuring.scratch(options.folder) as folder:
        rows = run(folder, options.files, options.repeat)
    kinds = list(dict.fromkeys(row["what"] for row in rows))
    of = {kind: [row for row in rows if row["what"] == kind] for kind in kinds}
    steps = [
        step for step in rows[-1]["seconds"]["steps"] if any(r["seconds"]["steps"].get(step, 0) > _ABOVE for r in rows)
    ]
    table = [
        [
            kind,
            len(found),
            *(float(median(row[name] for row in found)) for name in ("wall", "cpu")),
            max(row["wall"] for row in found),
            *(float(median(row["seconds"][name] for row in found)) for name in ("total", "dagster", "expectations")),
            max(row["seconds"]["total"] for row in found),
        ]
        for kind, found in of.items()
    ]
    header = ["update", "runs", "wall s", "cpu s", "longest", "library s", "Dagster's own", "expectations", "longest"]
    by_step = [
        [kind, *(float(median(row["seconds"]["steps"].get(step, 0.0) for row in found)) for step in steps)]
        for kind, found in of.items()
    ]
    lines = [measuring.table(table, header), "", measuring.table(by_step, ["seconds of step", *steps])]
    measuring.tell({"files": options.files, "runs": rows}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
