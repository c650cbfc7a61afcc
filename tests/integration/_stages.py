"""The corpora, configurations and data folders that the tests of interrupted updates start from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.integration._commit_points import How
from tests.integration._forkserver import Ended, ForkServer

NOTHING: dict[str, Any] = {"live": None, "states": {}}

_HR = {"match": "hr/**", "readers": ["group:hr"]}
_BOARD = {"match": "board/**", "readers": ["group:works-council"]}
_ALL = {"match": "**", "readers": ["group:staff"]}

FIRST = {
    "leave.md": "# Leave\n\nThirty days a year.\n\n## Parents\n\nTen more.\n",
    "hr/pay.txt": "Pay bands are reviewed in March.\n",
    "board/minutes.md": "The works council met.\n",
    "old.md": "A page that will go.\n",
}
SECOND = FIRST | {"travel.md": "# Travel\n\nTrains are booked in second class.\n"}
THIRD = {
    "leave.md": "# Leave\n\nThirty-one days a year.\n\n## Parents\n\nTen more.\n",  # edited
    "hr/pay-2026.txt": FIRST["hr/pay.txt"],  # renamed
    "board/minutes.md": FIRST["board/minutes.md"],  # other readers, by the configuration
    "travel.md": SECOND["travel.md"],
    "new.md": "A page that came.\n",
    "broken.pdf": "%PDF-1.7 and nothing that follows",
}


def write_corpus(folder: Path, texts: dict[str, str]) -> None:
    """One file a text."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


TOKEN = "LOCKSTEP_TEST_MILVUS_TOKEN"
"""The variable with what opens the Milvus Lite process that all of these share."""


def configuration(model: Path, *, uri: str | None = None, path: str = "corpus", board: bool = False) -> dict[str, Any]:
    """As a mapping; `board` gives one folder other readers."""
    return {
        "index": "test",
        "encoder": {"model": str(model), "dtype": "float32"},
        "parsing": {"workers": 1},
        **({"milvus": {"uri": uri, "token_env": TOKEN}} if uri else {}),
        "sources": [
            {
                "name": "docs",
                "kind": "filesystem",
                "path": path,
                "access": [*([_BOARD] if board else []), _HR, _ALL],
            }
        ],
    }


@dataclass(frozen=True)
class State:
    """A configuration, a data folder as it was at some moment, and the index as it was then."""

    config: str
    home: Path | None = None
    slots: dict[str, Any] = field(default_factory=lambda: NOTHING)
    visible: list[str] | None = None
    digest: str = ""
    snapshot_id: str = ""


class Stages:
    """Three states of one corpus, each reached by an undisturbed update, and runs that begin in one of them."""

    def __init__(self, server: ForkServer, folder: Path, uri: str, model: Path) -> None:
        self._server = server
        self._folder = folder
        self._cases = 0
        self.empty = [
            self._configured(uri, model, number, texts) for number, texts in enumerate((FIRST, SECOND, THIRD))
        ]
        home = folder / "home"
        self.built: list[State] = []
        for number, config in enumerate(self.empty):
            done = server.result("update", config=config, home=str(home))
            kept = folder / f"home-{number}"
            shutil.copytree(home, kept)
            self.built.append(
                State(
                    config,
                    kept,
                    server.result("slots", config=config, home=str(home)),
                    server.result("visible", config=config, home=str(home)),
                    server.result("clean_digest", config=config, home=str(folder / f"clean-{number}")),
                    done["snapshot_id"],
                )
            )

    def _configured(self, uri: str, model: Path, number: int, texts: dict[str, str]) -> str:
        write_corpus(self._folder / f"corpus-{number}", texts)
        path = self._folder / f"lockstep-{number}.yaml"
        config = configuration(model, uri=uri, path=f"corpus-{number}", board=number == 2)
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return str(path)

    def home_as_in(self, state: State) -> Path:
        """A fresh copy of a state's data folder."""
        self._cases += 1
        home = self._folder / f"case-{self._cases}"
        if state.home is not None:
            shutil.copytree(state.home, home)
        return home

    def points(self, begin: State, action: str, config: str, **arguments: Any) -> list[str]:
        """What an undisturbed run from that state passes."""
        home = self.home_as_in(begin)
        found: list[str] = self._server.result(
            "points_of", action=action, config=config, home=str(home), slots=begin.slots, **arguments
        )
        shutil.rmtree(home)
        return found

    def killed(
        self, begin: State, action: str, config: str, point: str, how: How, **arguments: Any
    ) -> tuple[Path, Ended]:
        """The data folder that a run leaves which is killed at that point, and how it ended."""
        home = self.home_as_in(begin)
        return home, self.killed_in(home, action, config, point, how, slots=begin.slots, **arguments)

    def killed_in(self, home: Path, action: str, config: str, point: str, how: How, **arguments: Any) -> Ended:
        """The same, in a data folder that is there, on the index as it is unless `slots` are given."""
        return self._server.run("dying", action=action, config=config, home=str(home), at=point, how=how, **arguments)

    def run(self, action: str, config: str, home: Path, **arguments: Any) -> Ended:
        """One action on a case's data folder."""
        return self._server.run(action, config=config, home=str(home), **arguments)

    def result(self, action: str, config: str, home: Path, **arguments: Any) -> Any:
        """One action that must end well."""
        return self._server.result(action, config=config, home=str(home), **arguments)

    def recovered(self, config: str, home: Path) -> dict[str, Any]:
        """What the following update finds, does and leaves; the data folder is removed."""
        found: dict[str, Any] = self._server.result("recover", config=config, home=str(home))
        shutil.rmtree(home)
        return found
