"""What the benchmarks build: records and Markdown files from the data beside the project, and generated documents."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from benchmarks.measuring import DATA

READERS = {"staff": "group:research", "board": "group:board"}
SCIFACT = DATA / "scifact"
_OTEL = DATA / "otel-history" / "otel.bundle"


def scifact(limit: int | None = None) -> list[dict[str, str]]:
    """The abstracts: id, title, text."""
    return _lines(SCIFACT / "corpus.jsonl")[:limit]


def scifact_questions() -> list[tuple[str, str]]:
    """(id, text) of the training queries."""
    return [(row["id"], row["text"]) for row in _lines(SCIFACT / "queries.train.jsonl")]


def _lines(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise SystemExit(f"{path} is absent: put the data there that ../shared/data/README.md describes")
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_records(path: Path, records: list[dict[str, str]]) -> None:
    """Records as JSON lines."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def records_config(folder: Path, records: Path, **sections: object) -> Path:
    """A configuration with that file as its one source, readable for `group:research`."""
    fields = {"id": "id", "title": "title", "text": "text"}
    source = {"name": "records", "kind": "records", "path": str(records), "fields": fields, "access": _access()}
    return _write(folder, source, sections)


def files_config(folder: Path, files: Path, *, board: Sequence[str] = (), **sections: object) -> Path:
    """A configuration with that folder as its one source; what matches a pattern of `board` is for another group."""
    rules = [{"match": pattern, "readers": [READERS["board"]]} for pattern in board]
    source = {"name": "files", "kind": "filesystem", "path": str(files), "access": [*rules, *_access()]}
    return _write(folder, source, sections)


def _access() -> list[dict[str, object]]:
    return [{"match": "**", "readers": [READERS["staff"]]}]


def _write(folder: Path, source: Mapping[str, object], sections: Mapping[str, object]) -> Path:
    path = folder / "lockstep.yaml"
    path.write_text(yaml.safe_dump({"index": "bench", "sources": [dict(source)], **sections}), encoding="utf-8")
    return path


def markdown_texts(files: int, *, abstracts_only: bool = False) -> list[tuple[str, str]]:
    """(path, text) of that many Markdown files: a documentation site's pages, then abstracts until there are enough."""
    pages = [] if abstracts_only else list(_pages())
    found = pages[:files]
    number = 0
    while len(found) < files:  # past the last abstract they begin again, each with another first line
        for row in scifact()[: files - len(found)]:
            again = f" ({number // 5_183})" if number >= 5_183 else ""
            found.append((f"abstracts/{number % 40:02d}/{number}.md", f"# {row['title']}{again}\n\n{row['text']}\n"))
            number += 1
    return found


def _pages() -> Iterator[tuple[str, str]]:
    """The site's English pages, read out of the bundle without a work tree."""
    if not _OTEL.is_file():
        raise SystemExit(f"{_OTEL} is absent: put the data there that ../shared/data/README.md describes")
    clone = Path("/tmp") / "lockstep-bench-otel.git"
    if not clone.is_dir():
        subprocess.run(["git", "clone", "-q", "--bare", str(_OTEL), str(clone)], check=True)
    archive = subprocess.run(
        ["git", "-C", str(clone), "archive", "--format=tar", "main", "content/en"], check=True, capture_output=True
    )
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar.getmembers():
            if member.isfile() and member.name.endswith(".md"):
                file = tar.extractfile(member)
                assert file is not None
                yield "site/" + member.name.removeprefix("content/en/"), file.read().decode("utf-8", "replace")


def write_files(folder: Path, texts: list[tuple[str, str]]) -> None:
    """Those files under a folder, with modification times in the past, as those of files that nobody edits."""
    for path, text in texts:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        age(file)


def age(file: Path, seconds: int = 3_600) -> None:
    """Make a file look as if it was written a while ago, a different time for another size."""
    import os
    import time

    then = time.time() - seconds
    os.utime(file, (then, then))


def short_documents(count: int, *, seed: int = 7) -> Iterator[dict[str, str]]:
    """Documents of about 60 words, made of invented ones drawn from a Zipf distribution; each is unique."""
    draw = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "is", "ol")]
    words = ["".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3)))) for _ in range(20_000)]
    cumulative, total = [], 0.0
    for rank in range(1, len(words) + 1):
        total += 1 / rank
        cumulative.append(total)
    for number in range(count):
        picked = draw.choices(words, cum_weights=cumulative, k=draw.randint(40, 80))
        lines = [" ".join(picked[i : i + 12]).capitalize() + "." for i in range(0, len(picked), 12)]
        yield {"id": f"doc-{number:06d}", "title": " ".join(picked[:4]).title(), "text": " ".join(lines)}
