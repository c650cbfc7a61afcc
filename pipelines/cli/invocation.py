"""How a command is invoked: the options that all have, where it writes, and the installation that it works on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pipelines.cli.console import Console
from pipelines.errors import AccessError, ConfigError, LockstepError
from pipelines.home import Home
from pipelines.principals import DEFAULT_TENANT

if TYPE_CHECKING:
    from pipelines.project import Project

FC = TypeVar("FC", bound=Callable[..., Any])

USAGE = (ConfigError, AccessError)
"""Errors that mean: the command was not asked rightly. Exit status 2."""

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("lockstep.yaml"),
    show_default=True,
    envvar="LOCKSTEP_CONFIG",
    help="Configuration file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


tenant_option = click.option(
    "--tenant",
    default=DEFAULT_TENANT,
    show_default=True,
    help="Whose people ask; rows of another tenant are out of reach, whoever asks.",
)


def principals_option(text: str) -> Callable[[FC], FC]:
    """`--as PRINCIPAL`, which may be repeated; `text` says what it is for."""
    return click.option("--as", "principals", multiple=True, metavar="PRINCIPAL", help=text)


@contextmanager
def writing(home: Home) -> Iterator[None]:
    """Let a data folder that cannot be written (full, read-only) be a message: Dagster's history stops on it, too."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (OSError, DBAPIError) as error:
        raise LockstepError(
            f"writing under {home.root}: {getattr(error, 'orig', None) or error}; free space on that disk and make the "
            "folder writable, then run the command again: it continues where it stopped"
        ) from error


def open_console(as_json: bool) -> Console:
    """Where the command writes; an error is told there too."""
    console = Console(as_json=as_json)
    click.get_current_context().find_root().obj = console
    return console


def open_project(config_path: Path) -> Project:
    """The installation that a configuration and LOCKSTEP_HOME describe."""
    from pipelines.project import Project

    return Project.open(config_path, Home.from_environment())
