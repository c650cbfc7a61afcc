"""The command `lockstep`: a thin layer over the same jobs and library that the Dagster UI uses.

Results go to standard output, progress and messages to standard error. Exit status: 0, 1 (it ran and something failed),
2 (usage: an option, a principal or the configuration is wrong).
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pipelines.commands.invocation import config_option, json_option, open_console, open_project, writing
from pipelines.console import Console, columns, progress_bars
from pipelines.errors import AccessError, ConfigError, LockstepError
from pipelines.home import Home

_USAGE = (ConfigError, AccessError)

_LATER: dict[str, str] = {
    "approve": "pipelines.commands.approve:approve",
    "dead-letters": "pipelines.commands.letters:dead_letters",
    "explain": "pipelines.commands.history:explain",
    "history": "pipelines.commands.history:history",
    "maintenance": "pipelines.commands.maintenance:maintenance",
    "receive": "pipelines.commands.receive:receive",
    "sources": "pipelines.commands.sources:sources",
}
"""Commands that live in `pipelines.commands`, as module:attribute, one module a group: imported when asked for."""


class _Command(click.Group):
    """Turns errors that Lockstep raises on purpose into a message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted({*super().list_commands(ctx), *_LATER})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now if it lives in a module of its own."""
        if cmd_name not in _LATER:
            return super().get_command(ctx, cmd_name)
        module, _, name = _LATER[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LockstepError as error:
            as_json = bool(ctx.obj and ctx.obj.as_json)
            _fail(Console(as_json=as_json), type(error).__name__, str(error))
            ctx.exit(2 if isinstance(error, _USAGE) else 1)
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; what was committed stays, and the next update goes on from there\n")
            ctx.exit(130)


def _fail(console: Console, kind: str, message: str) -> None:
    console.note(f"{kind}: {message}")
    if console.as_json:
        console.result({"error": {"class": kind, "message": message}})


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lockstep")
def main() -> None:
    """Keep a retrieval index in lockstep with an organisation's documents.

    Data lives under LOCKSTEP_HOME (default .lockstep). Each command takes --config FILE and most take --json.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")


@main.command()
@config_option
@json_option
@click.option("--approve-deletions", is_flag=True, help="Plan as if the mass-deletion guard had your word.")
def plan(config_path: Path, as_json: bool, approve_deletions: bool) -> None:
    """Show what an update would do and what it would cost, changing nothing."""
    from dataclasses import asdict

    from pipelines.update.plan import plan as make_plan

    console = open_console(as_json)
    found = make_plan(open_project(config_path), approve_deletions=approve_deletions)
    documents = {
        "added": found.added,
        "changed": found.changed,
        "deleted": found.deleted,
        "unchanged": found.unchanged,
        "access_changed": found.access_changed,
    }
    problems = [asdict(problem) for outcome in found.sources for problem in outcome.problems]
    console.result(
        {
            "documents": documents,
            "embeddings": {"to_encode": found.to_encode, "exact": found.encode_exact},
            "parse": {"to_parse": found.to_parse},
            "estimated_seconds": round(found.estimated_seconds, 1),
            "sources": [asdict(outcome) for outcome in found.sources],
            "problems": problems,
            "seconds": {"total": found.seconds},
        },
        [
            "documents   " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in documents.items()),
            f"to parse    {found.to_parse}",
            f"to encode   {found.to_encode}{'' if found.encode_exact else ' (estimated)'} texts, "
            f"about {found.estimated_seconds:.0f} s",
            *(f"problem     {problem['source']}: {problem['uri']}: {problem['error']}" for problem in problems),
        ],
    )
    for note in found.notes:
        console.note(note)
    if found.notes:
        click.get_current_context().exit(1)


@main.command()
@config_option
@json_option
@click.option("--full", is_flag=True, help="Build from nothing and check every row (the job nightly_rebuild).")
@click.option("--approve-deletions", is_flag=True, help="Allow more deletions than the guard does.")
def update(config_path: Path, as_json: bool, full: bool, approve_deletions: bool) -> None:
    """Bring the index to the sources' state: run the job incremental_update in this process."""
    from pipelines import summary
    from pipelines.config import load_config

    console = open_console(as_json)
    load_config(config_path)  # a wrong configuration is a usage error, before anything starts
    from jobs.run import run_job
    from pipelines.definitions import defs

    home = Home.from_environment()
    with progress_bars() as bars, writing(home):
        outcome = run_job(
            defs,
            "nightly_rebuild" if full else "incremental_update",
            config_path,
            home,
            writer={"approve_deletions": approve_deletions, "max_retries": 1, "retry_delay_seconds": 1.0},
            on_progress=bars.update,
        )
    told = summary.of_update(outcome)
    console.result(told, summary.lines(told) if "index_snapshots" in outcome.reports else [])
    for message in summary.complaints(outcome):
        console.note(message)
    if not summary.went_well(outcome):
        click.get_current_context().exit(2 if isinstance(outcome.error, _USAGE) else 1)


@main.command()
@click.argument("text", required=False)
@config_option
@json_option
@click.option(
    "--as",
    "principals",
    multiple=True,
    metavar="PRINCIPAL",
    help="Who asks: user:NAME, group:NAME or role:NAME; may be repeated. Nobody: no results.",
)
@click.option("--k", default=10, show_default=True, type=click.IntRange(1, 1000), help="Hits a question.")
@click.option("--mode", type=click.Choice(["hybrid", "dense", "bm25"]), help="Default: as configured.")
@click.option(
    "--batch",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Many questions, one a line: id, tab, text.",
)
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "trec"]),
    default="text",
    help="With --batch: trec prints a TREC run file, one best hit a document.",
)
def query(
    text: str | None,
    config_path: Path,
    as_json: bool,
    principals: Sequence[str],
    k: int,
    mode: Any,
    batch: Path | None,
    output: str,
) -> None:
    """Search the live snapshot as somebody."""
    from pipelines.batch import answer_batch, hit_record
    from pipelines.query import Asker
    from pipelines.retrieval.snippet import snippet

    console = open_console(as_json)
    if (text is None) == (batch is None):
        raise click.UsageError("give a question, or --batch FILE with questions, and not both")
    if output == "trec" and batch is None:
        raise click.UsageError("--format trec goes with --batch FILE")
    if not principals:
        console.note("nobody asks (--as was not given), and nobody may read anything: no results")
    asker = Asker(open_project(config_path))
    if batch is not None:
        answer_batch(console, asker, batch, principals, k=k, mode=mode, trec=output == "trec")
        return
    assert text is not None
    answer = asker.ask([text], principals, k=k, mode=mode)
    hits = [hit_record(hit) for hit in answer.hits[0]]
    lines = []
    for number, hit in enumerate(hits, start=1):
        place = " · ".join(part for part in (hit["heading_path"], f"p. {hit['pages']}" if hit["pages"] else "") if part)
        lines += [f"{number:>2}. {hit['uri']}  ({hit['score']:.4f})" + (f"  {place}" if place else "")]
        lines += [f"    {snippet(hit['body'], text, width=300)}"]
    console.result({"snapshot_id": answer.snapshot_id, "hits": hits}, lines or ["no results"])


@main.command()
@config_option
@json_option
def verify(config_path: Path, as_json: bool) -> None:
    """Read the live collection back and compare it with the tables."""
    from pipelines.update.verify import verify as read_back

    console = open_console(as_json)
    report = read_back(open_project(config_path))
    told = {
        "ok": report.ok,
        "snapshot_id": report.snapshot_id,
        "rows": report.rows,
        "expected_rows": report.expected_rows,
        "expected_digest": report.expected_digest,
        "actual_digest": report.actual_digest,
        "differing_documents": list(report.differing_documents),
        "seconds": {"total": report.seconds},
    }
    verdict = "the index holds exactly what the tables say" if report.ok else "THE INDEX DIFFERS FROM THE TABLES"
    console.result(
        told,
        [
            f"{verdict}: snapshot {report.snapshot_id}, {report.rows} rows (expected {report.expected_rows})",
            f"expected digest  {report.expected_digest}",
            f"actual digest    {report.actual_digest}",
            *(f"differs          {uri}" for uri in report.differing_documents),
        ],
    )
    if not report.ok:
        console.note("run `lockstep update --full` to build the index from the tables again")
        click.get_current_context().exit(1)


@main.command()
@config_option
@json_option
def snapshots(config_path: Path, as_json: bool) -> None:
    """List the history of the index, newest first, like git log."""
    from pipelines.lake.snapshots import history

    console = open_console(as_json)
    project = open_project(config_path)
    found = [
        {
            "snapshot_id": s.snapshot_id,
            "status": s.status,
            "kind": s.kind,
            "documents": s.documents,
            "rows": s.rows,
            "digest": s.digest,
            "manifest_version": s.manifest_version,
            "parent": s.parent,
            "collection": s.collection,
            "run_id": s.run_id,
            "created_at": s.created_at.isoformat(),
        }
        for s in reversed(history(project.lake, project.alias))
    ]
    shown = ("snapshot_id", "status", "kind", "documents", "rows", "created_at")
    rows = [[*(str(s[name])[:19] for name in shown), str(s["digest"])[:16]] for s in found]
    console.result({"snapshots": found}, columns(rows, [*shown, "digest"]) if rows else ["there is no snapshot yet"])


@main.command()
@click.argument("snapshot", required=False)
@config_option
@json_option
def rollback(snapshot: str | None, config_path: Path, as_json: bool) -> None:
    """Make an earlier snapshot live again: SNAPSHOT, or the one before the live one."""
    from pipelines.identity import fingerprint
    from pipelines.update.rollback import rollback as go_back

    console = open_console(as_json)
    project = open_project(config_path)
    run_id = "cli-" + fingerprint("rollback", {"pid": os.getpid(), "random": os.urandom(8)})[:12]
    with project.writer(run_id, "rollback"), progress_bars() as bars:
        report = go_back(project, snapshot, run_id=run_id, progress=bars.of("index"))
    how = "built again from the tables" if report.rebuilt else "from its slot"
    console.result(
        {
            "snapshot_id": report.snapshot_id,
            "previous": report.previous,
            "rebuilt": report.rebuilt,
            "seconds": {"swap": report.swap_seconds, "total": report.seconds},
        },
        [
            f"snapshot {report.snapshot_id} is live again ({how}); before it was {report.previous}",
            f"the swap took {report.swap_seconds * 1000:.0f} ms; it stays until an update finds something new",
        ],
    )


@main.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> None:
    """Tell whether the installation is healthy, part by part."""
    from pipelines.update.status import as_json as to_json
    from pipelines.update.status import status as look

    console = open_console(as_json)
    found = look(open_project(config_path))
    rows = [(part.name, part.health, part.message) for part in found.parts]
    console.result(to_json(found), [found.health, *columns(rows, ("part", "health", "what is known"))])
    if found.health == "unhealthy":
        click.get_current_context().exit(1)


@main.command()
@config_option
@click.option("--port", default=3000, show_default=True, help="Port of the web UI, on 127.0.0.1.")
def ui(config_path: Path, port: int) -> None:
    """Open the Dagster web UI, which follows the sources by itself while it is open."""
    from resources.instance import ui_environment

    environment = {**os.environ, **ui_environment(Home.from_environment(), config_path)}
    dagster = Path(sys.executable).with_name("dagster")
    arguments = ["dev", "-h", "127.0.0.1", "-p", str(port), "-m", "pipelines.definitions"]
    os.execve(dagster, [str(dagster), *arguments], environment)  # noqa: S606 - replaces this process, no shell


@main.command()
@config_option
def stop(config_path: Path) -> None:
    """Stop the Milvus Lite process of this data folder; the next command starts it again."""
    from pipelines.index.server import stop_server

    del config_path
    stopped = stop_server(Home.from_environment())
    click.echo("stopped" if stopped else "it was not running", err=True)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell; for bash: eval "$(lockstep completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "lockstep", "_LOCKSTEP_COMPLETE").source())


def run() -> None:
    """The command as a process: it ends as soon as its work is done and its output is written.

    Arrow's threads may still be closing files that a table was read from. When one of them asks for the interpreter
    while that is taken down, the process is aborted (apache/arrow issue 34314), although all went well. So it is not
    taken down: what was registered to happen at exit happens, and the process ends.
    """
    status = [1]  # of an exception that nobody expected, which has printed its traceback by then
    atexit.register(_leave, status)  # the first one that is registered is the last one that is called
    try:
        main()
    except SystemExit as ended:
        status[0] = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


def _leave(status: list[int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status[0])


if __name__ == "__main__":
    run()
