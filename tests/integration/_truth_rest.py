"""What must be so whenever everything has arrived and is applied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.identity import content_hash, digest
from pipelines.index.protocol import Index
from pipelines.project import Project
from tests.integration._truth_bench import ALIAS, Bench
from tests.integration._truth_letters import Letters
from tests.integration._truth_model import Key, Model


class Rest:
    """Knows what was so at the last rest, against which the next one is held."""

    def __init__(self, bench: Bench, model: Model, letters: Letters) -> None:
        self._bench, self._model, self._letters = bench, model, letters
        self.served: dict[Key, bytes] = {}  # the content that each document is shown as
        self.taken: dict[Key, bytes] = {}  # what each document is taken for
        self.digest = ""
        self._versions: dict[Key, int] = {}
        self._deleted: dict[Key, int] = {}  # version of each deleted document

    def check(self, project: Project, index: Index, *, listed: bool) -> None:
        """The index holds what the model says, each row once; manifest, versions and dead letters agree."""
        documents = {(row["source"], row["uri"]): row for row in project.lake.read("documents").to_pylist()}
        taken = {key: self._taken(key, documents.get(key)) for key in self._model.now()}
        served = self._expected(documents, taken)
        rows: dict[str, str] = {}
        for (source, uri), content in served.items():
            truth = self._model.now()[source, uri]
            rows |= self._bench.oracle.rows(source, uri, content, truth.tenant, truth.readers)
        live = index.alias_target(ALIAS)
        assert live is not None
        held = index.row_hashes(live)
        assert held == rows, _difference(held, rows, index.rows(live).to_pylist())
        state = index.read_state(live)
        assert state is not None
        assert state["digest"] == digest(rows.values())
        assert state["rows"] == len(rows)
        broken = {key: one for key, one in taken.items() if not self._bench.oracle.readable(key[1], one)}
        self._letters.check(project, broken, listed=listed)
        self.served, self.taken, self.digest = served, taken, state["digest"]
        self._versions = {key: documents[key]["version"] for key in served}
        self._deleted = {key: row["version"] for key, row in documents.items() if row["status"] == "deleted"}
        self._model.rest(served, taken)

    def _taken(self, key: Key, row: dict[str, Any] | None) -> bytes:
        """What a document is taken for: what it is, or what it was when a look could not tell the two apart."""
        newest = None if row is None else row["quarantined_hash"] or row["content_hash"]
        found = [one for one in self._model.may_be_taken_for(key) if content_hash(one) == newest]
        return found[0] if found else self._model.now()[key].content

    def _expected(self, documents: dict[Key, dict[str, Any]], taken: dict[Key, bytes]) -> dict[Key, bytes]:
        """The content that each document is to be shown as; a document that cannot be read keeps an earlier one."""
        served: dict[Key, bytes] = {}
        for key, content in taken.items():
            row = documents.get(key)
            assert row is not None, f"{key} is lost"
            if self._bench.oracle.readable(key[1], content):
                served[key] = content
                assert row["status"] == "active", (key, row["status"])
                assert row["quarantined_hash"] is None, key
            elif row["status"] == "active":
                by_hash = {content_hash(one): one for one in self._readable(key)}
                assert row["content_hash"] in by_hash, f"{key} shows what it never was"
                served[key] = by_hash[row["content_hash"]]
            else:
                assert key not in self.served or self._model.was_away(key), f"{key} lost its last good version"
            if key in served:
                assert row["content_hash"] == content_hash(served[key]), f"{key} is not what it is"
                self._check_version(key, row["version"], served[key])
        for key, row in documents.items():
            assert key in taken or row["status"] == "deleted", f"{key} is still {row['status']}"
        return served

    def _readable(self, key: Key) -> Iterable[bytes]:
        return (one for one in self._model.contents(key) if self._bench.oracle.readable(key[1], one))

    def _check_version(self, key: Key, version: int, content: bytes) -> None:
        """Up by one for each content that an update saw, and never without a reason."""
        number = self._versions.get(key, self._deleted.get(key, 0))
        most = number + self._model.changes(key)
        least = number + (self.served.get(key) != content)
        assert least <= version <= most, f"{key} is version {version}, and may be {least} to {most}"


def _difference(held: dict[str, str], wanted: dict[str, str], rows: list[dict[str, Any]]) -> str:
    texts = {row["chunk_id"]: (row["source"], row["uri"], row["text"], row["acl_id"]) for row in rows}
    surplus = [texts.get(key) for key in held if held[key] != wanted.get(key)]
    missing = len(wanted.keys() - held.keys())
    return f"the index is not what there is: surplus or other rows {surplus}, missing {missing}"
