"""On the path of every Python process of a test: whatever would leave the machine is written down and refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_LOG = os.environ.get("LOCKSTEP_TEST_ATTEMPTS")
_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
_HERE = str(Path(__file__).parent)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path: a socket of this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host is None or str(host).startswith(_LOCAL):
        return
    with Path(str(_LOG)).open("a", encoding="utf-8") as log:
        log.write(f"{os.getpid()} {sys.argv} {event} {host}\n")
    raise PermissionError(f"{event} {host}: no network in this test")


def _passed_on(self: Any, *arguments: Any, **options: Any) -> None:
    """Children that get an environment of their own get this module, too."""
    if options.get("env") is not None:
        paths = [_HERE, *filter(None, options["env"].get("PYTHONPATH", "").split(os.pathsep))]
        extra = {"PYTHONPATH": os.pathsep.join(paths), "LOCKSTEP_TEST_ATTEMPTS": str(_LOG)}
        options["env"] = {**options["env"], **extra}
    _start(self, *arguments, **options)


if _LOG:
    sys.addaudithook(_refuse)
    _start = subprocess.Popen.__init__
    subprocess.Popen.__init__ = _passed_on  # type: ignore[method-assign]
    with Path(_LOG).open("a", encoding="utf-8") as started:
        started.write(f"# {sys.orig_argv}\n")
