"""Dead letters in the model: which there are at rest, which may be laid aside, and what trying again may change.

Trying again changes nothing by itself but this: a message that is understood after all has arrived, at that moment.
Everything else waits for the next look, and comes to what it would have come to anyway.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.identity import content_hash
from pipelines.lake import dead_letters
from pipelines.lake.events import Event
from pipelines.project import Project
from pipelines.sources.announced.announcements import decode
from pipelines.update.looking import letters
from tests.integration._truth_model import FEED, Announced, Key, Model

Row = dict[str, Any]


class Letters:
    """What was refused, and what an operator did about it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._messages: dict[str, Announced | None] = {}  # by origin; None: nobody can ever understand it
        self._payloads: dict[str, bytes] = {}
        self._done: set[str] = set()  # origins of messages that were understood, or laid aside
        self._aside: dict[Key, dict[str, int]] = {}  # content hash to how often the document had changed then

    def reject(self, project: Project, message: Announced | None) -> None:
        """A message arrives that is not understood: by this release (None: by no release)."""
        origin = f"webhook:bad-{len(self._messages)}"
        payload = b"?" if message is None else _payload(message)
        self._messages[origin], self._payloads[origin] = message, payload
        event = Event(
            FEED,
            "",
            "rejected",
            origin,
            content=payload,
            size_bytes=len(payload),
            error_class="NotJson",
            error="not understood",
        )
        project.events.append([event])

    def open(self, project: Project) -> list[Row]:
        """Open letters in a fixed order."""
        return sorted(dead_letters.open_letters(project.lake).to_pylist(), key=lambda row: row["letter_id"])

    def replay(self, project: Project, chosen: Sequence[Row]) -> None:
        """These are tried again."""
        report = letters.replay(project, chosen, run_id="replay")
        told = report.announced + report.waiting + report.understood + len(report.refused)
        assert told == report.letters == len(chosen), report
        self.replayed(project, chosen)

    def replayed(self, project: Project, chosen: Sequence[Row]) -> None:
        """What the model knows after these were tried again: messages that are understood have arrived."""
        for row in chosen:
            message = self._messages.get(row["uri"]) if row["stage"] == "event" else None
            if message is None:
                continue
            event = decode(self._payloads[row["uri"]], project.config.source(FEED), origin=row["uri"])  # type: ignore[arg-type]
            identity = event.identity(None if event.content is None else content_hash(event.content))
            arrived = Announced(message.uri, message.version, message.content, message.readers, identity)
            versions = self._model.announced.setdefault(message.uri, [])
            if arrived not in versions:
                versions.append(arrived)
            self._done.add(row["uri"])
        self._model.note()

    def discard(self, project: Project, chosen: Sequence[Row]) -> None:
        """These are laid aside."""
        report = letters.discard(project, chosen, reason="as the example asks", run_id="discard")
        assert report.discarded + report.unchanged == len(chosen), report
        for row in chosen:
            if row["stage"] == "event":
                self._done.add(row["uri"])
            elif row["stage"] == "parse":
                key = (row["source"], row["uri"])
                self._aside.setdefault(key, {})[row["content_hash"]] = self._model.changed.get(key, 0)

    def check(self, project: Project, broken: Mapping[Key, bytes], *, listed: bool) -> None:
        """At rest: one letter a document that cannot be read, and one a message that was not understood.

        Args:
            project: whose letters they are.
            broken: documents that cannot be read, with the content for which they are taken.
            listed: everything was listed since anything failed.
        """
        rows = dead_letters.unresolved(project.lake).to_pylist()
        parse = {(row["source"], row["uri"]): row for row in rows if row["stage"] == "parse"}
        open_ones = {key for key, row in parse.items() if row["status"] == "open"}
        assert open_ones <= broken.keys(), f"letters of documents that can be read: {open_ones - broken.keys()}"
        for key, content in broken.items():
            assert key in parse, f"no letter tells that {key} cannot be read"
            row, known = parse[key], content_hash(content)
            asides = self._aside.get(key, {})
            if row["status"] == "discarded":
                assert known in asides, f"nobody laid aside that {key} cannot be read with this content"
            elif known in asides:
                assert asides[known] != self._model.changed.get(key, 0), f"the letter of {key} was laid aside"
            assert row["content_hash"] == known, f"the letter of {key} is about another content"
        waiting = [row for row in rows if row["status"] == "open"]
        others = [(row["stage"], row["uri"]) for row in waiting if row["stage"] not in ("parse", "event")]
        assert not (listed and others), others  # what failed to be listed is only well again when it is listed
        messages = {row["uri"] for row in waiting if row["stage"] == "event"}
        assert messages == self._messages.keys() - self._done, (messages, self._messages.keys() - self._done)


def _payload(message: Announced) -> bytes:
    told: dict[str, Any] = {"schema_version": 1, "uri": message.uri, "version": message.version}
    if message.content is None:
        told["type"] = "delete"
    else:
        told |= {"type": "upsert", "content": {"base64": base64.b64encode(message.content).decode()}}
    if message.readers is not None:
        told["readers"] = list(message.readers)
    return json.dumps(told).encode()
