"""The command `lockstep`: a thin layer over the same jobs and library that the Dagster UI uses.

Results go to standard output, progress and messages to standard error. Exit status: 0, 1 (it ran and something failed),
2 (usage: an option, a principal or the configuration is wrong).
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from importlib import import_module
from typing import Any

import click

from pipelines.cli.console import Console
from pipelines.cli.invocation import USAGE
from pipelines.errors import LockstepError

_COMMANDS: dict[str, str] = {
    "approve": "pipelines.cli.approve:approve",
    "dead-letters": "pipelines.cli.letters:dead_letters",
    "explain": "pipelines.cli.history:explain",
    "history": "pipelines.cli.history:history",
    "maintenance": "pipelines.cli.maintenance:maintenance",
    "plan": "pipelines.cli.update:plan",
    "query": "pipelines.cli.query:query",
    "receive": "pipelines.cli.receive:receive",
    "rollback": "pipelines.cli.snapshots:rollback",
    "snapshots": "pipelines.cli.snapshots:snapshots",
    "sources": "pipelines.cli.sources:sources",
    "status": "pipelines.cli.processes:status",
    "stop": "pipelines.cli.processes:stop",
    "ui": "pipelines.cli.processes:ui",
    "update": "pipelines.cli.update:update",
    "verify": "pipelines.cli.snapshots:verify",
}
"""Commands as module:attribute, each imported when it is asked for: most of what one needs, the others do not."""


class _Command(click.Group):
    """Turns errors that Lockstep raises on purpose into a message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted({*super().list_commands(ctx), *_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now if it lives in a module of its own."""
        if cmd_name not in _COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LockstepError as error:
            as_json = bool(ctx.obj and ctx.obj.as_json)
            _fail(Console(as_json=as_json), type(error).__name__, str(error))
            ctx.exit(2 if isinstance(error, USAGE) else 1)
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
    os.umask(0o077)  # what it writes under LOCKSTEP_HOME has the texts of all documents, whoever may read them
    gc.set_threshold(100_000)  # modules and records are not garbage: looking at them again takes 0.5 of 4 seconds
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
