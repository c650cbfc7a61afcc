"""`lockstep status`, `ui` and `stop`: how the installation fares, and the processes that it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pipelines.cli.console import columns
from pipelines.cli.invocation import config_option, json_option, open_console, open_project
from pipelines.home import Home


@click.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> None:
    """Tell whether the installation is healthy, part by part."""
    from pipelines.update.upkeep.status import as_json as to_json
    from pipelines.update.upkeep.status import status as look

    console = open_console(as_json)
    found = look(open_project(config_path))
    rows = [(part.name, part.health, part.message) for part in found.parts]
    console.result(to_json(found), [found.health, *columns(rows, ("part", "health", "what is known"))])
    if found.health == "unhealthy":
        click.get_current_context().exit(1)


@click.command()
@config_option
@click.option("--port", default=3000, show_default=True, help="Port of the web UI, on 127.0.0.1.")
def ui(config_path: Path, port: int) -> None:
    """Open the Dagster web UI, which follows the sources by itself while it is open."""
    from resources.instance import ui_environment

    environment = {**os.environ, **ui_environment(Home.from_environment(), config_path)}
    dagster = Path(sys.executable).with_name("dagster")
    arguments = ["dev", "-h", "127.0.0.1", "-p", str(port), "-m", "pipelines.definitions"]
    os.execve(dagster, [str(dagster), *arguments], environment)  # noqa: S606 - replaces this process, no shell


@click.command()
@config_option
def stop(config_path: Path) -> None:
    """Stop what runs beside the commands: this folder's Milvus Lite, and the encoder that is kept warm.

    The next command that needs them starts them again.
    """
    from pipelines.index.server import stop_server

    def told(name: str, was_running: bool) -> None:
        click.echo(f"{name}: {'stopped' if was_running else 'it was not running'}", err=True)

    told("Milvus Lite", stop_server(Home.from_environment()))  # whatever is wrong with the configuration
    if config_path.exists():
        from pipelines.config import load_config
        from pipelines.embedding import warm

        told("the warm encoder", warm.stop(load_config(config_path).encoder))
