"""What a source that fails, and one that never answers, do to how soon another source's changes are searchable.

    python -m benchmarks.isolation [--changes 10]

Twice the same changes to a folder, each time with a UI and an installation of its own: alone, and beside a folder that
is not there and a bucket behind a socket that accepts connections and never says a word.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.following import Following, following, wait_until_live
from benchmarks.latency import ROOT, Change, measure
from benchmarks.measuring import machine, scratch
from pipelines.home import Home
from pipelines.index.server import stop_server
from pipelines.update.looking import progress

_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}


@contextmanager
def never_answers() -> Iterator[int]:
    """A port of this machine that accepts connections and keeps them, without a word."""
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:

        def accept() -> None:
            while True:
                try:
                    kept.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            for connection in kept:
                connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--gap", type=float, nargs=2, default=(1.0, 8.0), metavar=("LEAST", "MOST"))
    options = parser.parse_args()
    told: dict[str, Any] = {"machine": machine()}
    for name in ("alone", "beside_failing_and_hanging"):
        with ExitStack() as stack:
            folder = stack.enter_context(scratch())
            changes, others = _one(folder, stack, options, bad=name != "alone")
            seconds = [one.seconds for one in changes]
            told[name] = {
                "p50_seconds": round(float(np.quantile(seconds, 0.5)), 2),
                "p95_seconds": round(float(np.quantile(seconds, 0.95)), 2),
                "others": others,
            }
    print(json.dumps(told, indent=1))


def _one(
    folder: Path, stack: ExitStack, options: argparse.Namespace, *, bad: bool
) -> tuple[list[Change], dict[str, str]]:
    shutil.copytree(ROOT / "examples" / "corpus", folder / "corpus")
    configuration: dict[str, Any] = yaml.safe_load((ROOT / "lockstep.yaml").read_text())
    configuration["sources"][0]["path"] = "corpus"
    if bad:
        port = stack.enter_context(never_answers())
        configuration["sources"] += [
            {"name": "failing", "kind": "filesystem", "path": "absent", "every_seconds": 5},
            {
                "name": "hanging",
                "kind": "s3",
                "bucket": "b",
                "endpoint_url": f"http://127.0.0.1:{port}",
                "region": "us-east-1",
                "every_seconds": 5,
                "stall_seconds": 20,
            },
        ]
    path = folder / "lockstep.yaml"
    path.write_text(yaml.safe_dump(configuration))
    home = Home(folder / "home")
    stack.callback(stop_server, home)
    ui = stack.enter_context(following(path, home, folder / "ui.log", _CREDENTIALS))
    print(f"{'with a failing and a hanging source' if bad else 'alone'}: waiting for the first snapshot", flush=True)
    wait_until_live(ui)
    time.sleep(10)
    found = measure(ui, folder / "corpus", (), options.changes, tuple(options.gap), seed=7)
    return found, _others(ui, configuration)


def _others(ui: Following, configuration: dict[str, Any]) -> dict[str, str]:
    """What is known of the other sources at the end."""
    states = {name["name"]: progress.read(ui.home, name["name"]) for name in configuration["sources"][1:]}
    return {name: f"{state.failures} failures: {state.error}"[:160] for name, state in states.items()}


if __name__ == "__main__":
    main()
