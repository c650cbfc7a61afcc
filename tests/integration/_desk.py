"""An installation as its operator has it: a corpus, a configuration, a data folder, and the command `lockstep`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.home import Home
from pipelines.index.server import server_status, stop_server
from tests.integration._forkserver import ForkServer
from tests.integration._stages import configuration, write_corpus


@dataclass(frozen=True)
class Told:
    """What one command left behind on the terminal."""

    status: int  # exit status; minus the signal when it was killed
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of standard output."""
        found = json.loads(self.out.splitlines()[-1])
        assert isinstance(found, dict)
        return found


class Desk:
    """Runs the real command in a process of its own, forked from one that has done the imports."""

    def __init__(self, server: ForkServer, folder: Path, model: Path, home: Path | None = None) -> None:
        self._server = server
        self.folder = folder
        self.model = model
        self.corpus = folder / "corpus"
        self.config = folder / "lockstep.yaml"
        self.home = Home(home or folder / "home")
        self.corpus.mkdir(parents=True, exist_ok=True)
        self.configure(configuration(model))

    def configure(self, value: dict[str, Any] | str) -> None:
        """Replace the configuration file."""
        self.config.write_text(value if isinstance(value, str) else yaml.safe_dump(value), encoding="utf-8")

    def write(self, **texts: str) -> None:
        """Documents by name, "_md" at the end standing for ".md"."""
        write_corpus(self.corpus, {name.replace("_md", ".md"): text for name, text in texts.items()})

    def lockstep(self, *arguments: str, environ: dict[str, str] | None = None, **options: Any) -> Told:
        """Run a command; see `_actions.command` for the options."""
        output = self.folder / "terminal"
        named = [*arguments, "--config", str(self.config)]
        variables = {"LOCKSTEP_HOME": str(self.home.root), **(environ or {})}
        ended = self._server.run("command", arguments=named, environ=variables, output=str(output), **options)
        told = [output.with_suffix(f".{kind}").read_text(encoding="utf-8") for kind in ("out", "err")]
        assert ended.error is None, ended.error
        return Told(-ended.signal if ended.signal else ended.result, *told)

    def edit(self) -> None:
        """Change one document into what it never was before."""
        edits = len(list(self.folder.glob("edit-*")))
        (self.folder / f"edit-{edits}").touch()
        self.write(leave_md=f"# Leave\n\nThirty days, edition {edits}.\n")

    def update(self) -> dict[str, Any]:
        """An update by the library's steps, which is quicker than the command."""
        found: dict[str, Any] = self._server.result("update", config=str(self.config), home=str(self.home.root))
        return found

    def slot_folder(self, *, live: bool) -> Path:
        """Where Milvus Lite keeps the live or the idle slot."""
        found = self._server.result("slots", config=str(self.config), home=str(self.home.root))
        slot = next(name for name in found["states"] if (name == found["live"]) is live)
        return self.home.index / "milvus" / "collections" / slot

    def clean_digest(self) -> str:
        """Of a full build of this corpus in a fresh home."""
        home = self.folder / "clean"
        shutil.rmtree(home, ignore_errors=True)
        found = self._server.result("clean_digest", config=str(self.config), home=str(home))
        assert isinstance(found, str)
        return found

    def visible(self) -> list[str] | None:
        """Every row that a query can find; None when nothing is live."""
        found: list[str] | None = self._server.result("visible", config=str(self.config), home=str(self.home.root))
        return found

    @property
    def milvus(self) -> int:
        """The process id of Milvus Lite, which must run."""
        pid = server_status(self.home).pid
        assert pid is not None
        return pid

    def failing_update(self) -> str:
        """Why an update by the library's steps ends with an error."""
        ended = self._server.run("update", config=str(self.config), home=str(self.home.root))
        assert ended.error is not None, ended.result
        return ended.error.partition("pipelines.errors.")[2]

    def update_while_dies(self, victim: int, at: str) -> str:
        """Why an update ended at whose point `at` another process was killed."""
        arguments = {"config": str(self.config), "home": str(self.home.root), "at": at, "victim": victim}
        return str(self._server.run("dying", action="update", **arguments).error)

    def check_in_step(self) -> None:
        """The live index is what a clean build of the corpus would be, by `lockstep verify`."""
        told = self.lockstep("verify", "--json")
        assert told.status == 0, told.err + told.out
        assert told.json["actual_digest"] == self.clean_digest()


@contextmanager
def desk_in(server: ForkServer, folder: Path, model: Path, home: Path | None = None) -> Iterator[Desk]:
    """A desk whose Milvus Lite ends with the block."""
    desk = Desk(server, folder, model, home)
    try:
        yield desk
    finally:
        stop_server(desk.home)
