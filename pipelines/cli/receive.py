"""`lockstep receive`: the HTTP end of webhook sources, as a process of its own."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.invocation import config_option, open_console
from pipelines.home import Home


@click.command()
@config_option
@click.option("--host", help="Address to listen on. Default: the key `receiver.host`.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Default: the key `receiver.port`.")
def receive(config_path: Path, host: str | None, port: int | None) -> None:
    """Take in signed webhook calls, and store each before it is answered; ends with Ctrl-C."""
    from pipelines.config import load_config
    from pipelines.service.receiver import serve

    open_console(as_json=False)
    serve(load_config(config_path), Home.from_environment(), host=host, port=port)
