"""How far the derived tables reach: up to which version of the manifest everything that it serves has been made.

So an update looks only for what documents lack that changed since. A convenience: where the record is lost, or does not
fit what is there in every point, all documents are looked at, and what lacks is made.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.identity import doc_id
from pipelines.lake import dead_letters, manifest
from pipelines.project import Project
from pipelines.update import staging

NOTE = "reach"
COLUMNS = ["doc_id", "source", "uri", "content_hash", "media_type"]
_TABLES = ("elements", "chunks", "embeddings")


def begin(project: Project, *, full: bool = False) -> None:
    """Decide, once an update, from which version on documents are looked at; `full`: all of them."""
    interrupted = staging.read_note(project.home.staging, NOTE).get("open")  # nobody knows what was written since
    since = None if full or interrupted else _since(project)
    staging.write_note(project.home.staging, NOTE, {"since": since, "open": True})


def end(project: Project) -> None:
    """Record that everything is made for the manifest's newest version."""
    version = project.lake.version(manifest.TABLE)
    staging.write_note(project.home.staging, NOTE, {"version": version, **_facts(project)})


def documents(project: Project) -> tuple[pa.Table, bool]:
    """The active documents that may lack something, as COLUMNS, and whether these are all active ones."""
    since = _since(project)
    changes = None if since is None else manifest.changes_between(project.lake, since, _version(project))
    if changes is None:
        return manifest.active_documents(project.lake, columns=COLUMNS), True
    changed = changes.after.select(COLUMNS)
    again = manifest.active_documents(project.lake, columns=COLUMNS, doc_ids=_not_encoded(project))
    new = pc.invert(pc.is_in(again["doc_id"], value_set=changed["doc_id"].combine_chunks()))
    return pa.concat_tables([changed, again.filter(new)]), False


def _not_encoded(project: Project) -> list[str]:
    """Documents of which a text had no vector: it is tried again each time."""
    letters = dead_letters.unresolved(project.lake)
    letters = letters.filter(pc.equal(letters["stage"], "encode"))
    return [doc_id(row["source"], row["uri"]) for row in letters.select(["source", "uri"]).to_pylist()]


def _since(project: Project) -> int | None:
    note = staging.read_note(project.home.staging, NOTE)
    if note.get("open"):
        return note.get("since")
    fits = note and {name: note.get(name) for name in _facts(project)} == _facts(project)
    return note["version"] if fits and note["version"] <= _version(project) else None


def _version(project: Project) -> int:
    return project.lake.version(manifest.TABLE)


def _facts(project: Project) -> dict[str, Any]:
    """What must be as it was: the recipe, the model, and tables to which nobody else has written."""
    lake, recipe = project.lake, project.recipe
    tables = {name: f"{lake.identity(name)} {lake.version(name)}" for name in _TABLES}
    return {
        "manifest": lake.identity(manifest.TABLE),
        "recipe": recipe.fingerprint,
        "model": recipe.model_fp,
        **tables,
    }
