"""What children of the fork server do: parts of the library's work, told by plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipelines.home import Home
from tests.integration import _following
from tests.integration._commit_points import How, Points, strike

follow, follow_points, follow_dying = _following.follow, _following.follow_points, _following.follow_dying
follow_again, follow_clean, texts_shown = _following.follow_again, _following.follow_clean, _following.texts_shown

EVERYBODY = ("group:staff", "group:hr", "group:works-council")


def prepare() -> None:
    """Import what an update imports; start no thread and open nothing."""
    import alembic.command  # noqa: F401
    import deltalake  # noqa: F401
    import great_expectations  # noqa: F401
    import pymilvus  # noqa: F401
    import rich.progress  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch  # noqa: F401

    import pipelines.retrieval.asker
    import pipelines.update.snapshot.rollback  # noqa: F401
    import tests.updating  # noqa: F401
    from pipelines.definitions import defs
    from pipelines.parsing.parser import load

    defs.resolve_job_def("incremental_update")
    for media_type in ("text/markdown", "text/plain", "application/pdf"):
        load(media_type)


def parse_here() -> None:
    """Let this process parse in itself."""
    from pipelines.parsing import stage

    stage.Pool = _ParsingHere  # type: ignore[misc, assignment]


class _ParsingHere:
    """In place of the worker pool: parsing is not what is killed here, and starting workers takes most of the time."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __enter__(self) -> _ParsingHere:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, requests: Iterable[Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
        import json
        from dataclasses import asdict

        from pipelines.parsing.failures import ParseFailure
        from pipelines.parsing.parser import parse

        for request in requests:
            try:
                parsed = parse(request.content, request.media_type, self._config)
            except ParseFailure as failure:
                yield request, {"status": "failed", "error_class": type(failure).__name__, "error": str(failure)}
                continue
            yield (
                request,
                {
                    "status": "parsed" if parsed.elements else "empty",
                    "title": parsed.title,
                    "metadata": json.dumps(parsed.metadata),
                    "pages": parsed.pages,
                    "elements": [asdict(element) for element in parsed.elements],
                },
            )


def points_of(action: str, config: str, home: str, slots: dict[str, Any], **arguments: Any) -> list[str]:
    """The points that an undisturbed run passes."""
    put_slots_back(config, home, slots)
    points = Points()
    globals()[action](config, home, **arguments)
    return points.passed


def dying(
    action: str,
    config: str,
    home: str,
    at: str,
    how: How = "before",
    slots: dict[str, Any] | None = None,
    victim: int | None = None,
    **arguments: Any,
) -> None:
    """Put the index into its state, then run until the process, or the given one, is killed."""
    if slots is not None:
        put_slots_back(config, home, slots)
    Points(at, how, lambda: strike("SIGKILL", victim))
    globals()[action](config, home, **arguments)


def command(
    arguments: list[str],
    environ: dict[str, str],
    output: str,
    at: str | None = None,
    strike_by: str = "SIGKILL",
    victim: int | None = None,
    meanwhile: list[str] | None = None,
) -> int:
    """`lockstep ARGUMENTS` with all that belongs to it; returns its exit status. Output goes to `output`.out and .err.

    At the point `at` a signal is sent to this process or to `victim`; or another command is run, to its end.
    """
    import os
    import subprocess
    import sys

    from pipelines.cli.main import main

    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{output}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environ)

    def act() -> None:
        if meanwhile is None:
            strike(strike_by, victim)
        else:
            other = [sys.executable, "-m", "pipelines.cli", *meanwhile]
            done = subprocess.run(other, capture_output=True, text=True)
            Path(f"{output}.meanwhile").write_text(f"{done.returncode}\n{done.stderr}", encoding="utf-8")

    if at is not None:
        Points(at, act=act)
    try:
        main(arguments, prog_name="lockstep")
    except SystemExit as exited:
        return exited.code if isinstance(exited.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def update(config: str, home: str, *, full: bool = False) -> dict[str, Any]:
    """A whole update."""
    from tests.updating import update as run

    parse_here()
    done = run(_project(config, home), "run", full=full)
    return {
        "snapshot_id": done.promotion.snapshot_id,
        "digest": done.candidate.digest,
        "encoded": done.encoded.encoded,
        "reason": done.candidate.reason,
        "kind": done.candidate.kind,
        "collection": done.candidate.collection,
    }


def rollback(config: str, home: str, *, snapshot_id: str | None = None) -> dict[str, Any]:
    """Back to an earlier snapshot."""
    from pipelines.update.snapshot.rollback import rollback as run

    project = _project(config, home)
    with project.writer("run", "rollback"):
        report = run(project, snapshot_id, run_id="run")
    return {"snapshot_id": report.snapshot_id, "rebuilt": report.rebuilt}


def clean_digest(config: str, home: str) -> str:
    """Of a full build in a fresh home, with an index in memory."""
    from pipelines.config import load_config
    from pipelines.project import Project
    from tests.fakes.index import FakeIndex
    from tests.updating import update as run

    parse_here()
    return run(Project(load_config(Path(config)), Home(Path(home)), index=FakeIndex()), full=True).candidate.digest


def visible(config: str, home: str) -> list[str] | None:
    """Everything that a query can find, as sorted "uri: text" lines; None when nothing is live."""
    from pipelines.errors import SnapshotNotFound
    from pipelines.retrieval.asker import Asker

    try:
        answer = Asker(_project(config, home)).ask(["anything"], EVERYBODY, k=1000, mode="dense")
    except SnapshotNotFound:
        return None
    if answer.snapshot_id is None:
        return None
    return sorted(f"{hit.uri}: {hit.text}" for hit in answer.hits[0])


def verified(config: str, home: str) -> dict[str, Any]:
    """What `lockstep verify` finds."""
    from dataclasses import asdict

    from pipelines.update.snapshot.verify import verify

    return asdict(verify(_project(config, home)))


def recover(config: str, home: str) -> dict[str, Any]:
    """The following run: what is visible before it, an update, what is visible after it, and the proof."""
    before = visible(config, home)
    done = update(config, home)
    return {"before": before, **done, "after": visible(config, home), "verify": verified(config, home)}


def slots(config: str, home: str) -> dict[str, Any]:
    """Both slots and the alias as they are, to put them back later."""
    project = _project(config, home)
    index = project.index()
    return {
        "live": index.alias_target(project.alias),
        "states": {name: index.read_state(name) for name in index.collections() if name.startswith(project.alias)},
    }


def damage_a_row(config: str, home: str, *, uri: str) -> str:
    """Change the stored title of a document's row in the idle slot; returns the slot's name."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipelines.index.slots import idle_slot
    from pipelines.lake import manifest, snapshots
    from pipelines.update.snapshot.rows import ExpectedRows

    project = _project(config, home)
    index = project.index()
    history = snapshots.history(project.lake, project.alias)
    slot = idle_slot(project.alias, index.alias_target(project.alias), slots=2, history=history)
    documents = manifest.active_documents(project.lake)
    (rows,) = ExpectedRows(project, documents.filter(pc.equal(documents["uri"], uri))).tables()
    position = rows.schema.get_field_index("title")
    index.upsert(slot, rows.set_column(position, rows.schema.field(position), pa.array(["damaged"] * len(rows))))
    return slot


def put_slots_back(config: str, home: str, saved: dict[str, Any]) -> None:
    """Make the index what it was when `slots` looked, from the tables."""
    from pipelines.lake import manifest
    from pipelines.update.snapshot.rows import ExpectedRows

    project = _project(config, home)
    index = project.index()
    client = index._client  # type: ignore[attr-defined]
    if index.alias_target(project.alias) is not None:
        client.drop_alias(project.alias)
    for name in index.collections():
        if name.startswith(project.alias + "__"):
            index.drop(name)
    for name, state in saved["states"].items():
        index.create(name, project.recipe.dimension)
        rows = ExpectedRows(project, manifest.active_documents(project.lake, state["manifest_version"]))
        for table in rows.tables():
            index.upsert(name, table)
        index.write_state(name, state)
    if saved["live"]:
        index.point_alias(project.alias, saved["live"])


def _project(config: str, home: str) -> Any:
    from pipelines.config import load_config
    from pipelines.project import Project

    return Project(load_config(Path(config)), Home(Path(home)))


def maintenance(config: str, home: str, index: str, at: str | None = None) -> list[str]:
    """Maintenance with an index in memory, killed at a point if one is given; returns the points passed."""
    from tests.integration._maintenance_points import run

    return run(config, home, index, at)
