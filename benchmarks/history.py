"""The history of a documentation site as consecutive commits: which files each one touched, and what was in them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpora import age
from benchmarks.measuring import DATA

MASS_DELETE, MASS_RENAME = "8884dc1d", "48400cfb"  # 633 deletes; 116 renames with 41 updates
_BUNDLE = DATA / "otel-history" / "otel.bundle"
_LIST = DATA / "otel-history" / "otel-en.changes.jsonl"
_PREFIX = "content/en/"


@dataclass(frozen=True, slots=True)
class Commit:
    """`written`: paths whose content is new; `removed`: paths that are gone, those that files were renamed from too."""

    commit: str
    subject: str
    written: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        """Everything touched, once each: what watching the folder would have said."""
        return list(dict.fromkeys((*self.written, *self.removed)))


def commits() -> list[Commit]:
    """All of them, oldest first."""
    if not _LIST.is_file():
        raise SystemExit(f"{_LIST} is absent: put the data there that ../shared/data/README.md describes")
    with _LIST.open(encoding="utf-8") as file:
        return [_commit(json.loads(line)) for line in file]


def _commit(row: dict[str, object]) -> Commit:
    written, removed = [], []
    changes = row["changes"]
    assert isinstance(changes, list)
    for change in changes:
        path = change["path"].removeprefix(_PREFIX)
        if change["op"] == "delete":
            removed.append(path)
        else:
            written.append(path)
        if change["op"] == "rename":
            removed.append(change["from"].removeprefix(_PREFIX))
    return Commit(
        str(row["commit"]), str(row["subject"]), tuple(written), tuple(p for p in removed if p not in written)
    )


def window(every: Sequence[Commit], count: int | None) -> tuple[int, int]:
    """Half-open positions of consecutive commits: from a little before the mass deletion to a little after the
    mass rename; with `count`, that many from the same beginning.
    """
    named = {commit.commit[:8]: position for position, commit in enumerate(every)}
    first = named[MASS_DELETE] - 6
    last = named[MASS_RENAME] + 3 if count is None else first + count
    return first, min(last, len(every))


class Contents:
    """Reads files of commits through one git process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def read(self, commit: str, path: str) -> bytes | None:
        """The bytes of a file as that commit left it; None when it has no such file."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{commit}:{_PREFIX}{path}\n".encode())
        self._process.stdin.flush()
        head = self._process.stdout.readline().split()
        if head[-1] == b"missing":
            return None
        content = self._process.stdout.read(int(head[2]))
        self._process.stdout.read(1)
        return content


@contextmanager
def contents(scratch: Path) -> Iterator[Contents]:
    """A bare clone of the bundle below `scratch`, made when it is not there."""
    clone = scratch / "otel.git"
    if not clone.is_dir():
        subprocess.run(["git", "clone", "-q", "--bare", "-b", "main", str(_BUNDLE), str(clone)], check=True)
    process = subprocess.Popen(
        ["git", "-C", str(clone), "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Contents(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def begin(every: Sequence[Commit], before: int, read: Contents, folder: Path) -> None:
    """Write the files as they were when the commit at that position had not been made yet."""
    files: dict[str, str] = {}
    for commit in every[:before]:
        for path in commit.removed:
            files.pop(path, None)
        files |= dict.fromkeys(commit.written, commit.commit)
    for path, commit_id in files.items():
        _write(folder / path, read.read(commit_id, path))


def apply(commit: Commit, read: Contents, folder: Path) -> None:
    """Do to the files what the commit did; doing it twice does no harm."""
    for path in commit.removed:
        (folder / path).unlink(missing_ok=True)
    for path in commit.written:
        _write(folder / path, read.read(commit.commit, path))


def _write(file: Path, content: bytes | None) -> None:
    if content is None:
        raise SystemExit(f"{file}: the list of changes names it, and the commit does not have it; is the bundle whole?")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    age(file)
