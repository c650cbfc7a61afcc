"""The Dagster instance of one data folder: its configuration file, and opening it quickly for a run in this process."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from pipelines.home import Home
from pipelines.identity import content_hash

_CONFIGURATION = """\
# Written once by Lockstep; yours to change. Everything not named here has Dagster's default:
# run history, event log and schedules in SQLite files beside this one.

# Nothing is sent anywhere.
telemetry:
  enabled: false
nux:
  enabled: false

# One update at a time. Every step that writes is in the pool lockstep_writer; with the granularity "run", a second
# run that writes waits in the queue until the first has ended. (A run of the command line is not in the queue: the
# writer lock of the data folder stops it, or the other one, with a message.)
concurrency:
  pools:
    granularity: run
    default_limit: 1

# Runs are forked from one process that has imported everything: 0.1 s to start instead of 6 s. That process keeps about
# 400 MB. Without this section, Dagster starts a new Python for each run.
run_launcher:
  module: resources.run_launcher
  class: WarmRunLauncher

# How long a requested run waits until somebody looks.
run_coordinator:
  module: dagster._core.run_coordinator.queued_run_coordinator
  class: QueuedRunCoordinator
  config:
    dequeue_interval_seconds: 1

# The sensors that follow the sources wait for news; each needs a thread of its own. Without this section they look
# every few seconds instead.
sensors:
  use_threads: true
  num_workers: 16

# A run whose process could not start is marked as failed instead of waiting for ever.
run_monitoring:
  enabled: true
  start_timeout_seconds: 180
  poll_interval_seconds: 60

# A run whose process died (killed, out of memory, machine restarted) is started again once: every step goes on where
# it stopped. A run that ended with an error is not: its steps have already retried what may pass.
run_retries:
  enabled: true
  max_retries: 1
  retry_on_asset_or_op_failure: false

# Keep the ticks of schedules for a month.
retention:
  schedule:
    purge_after_days: 30
"""

# A run in the command line's process keeps its terminal: Dagster's capture would redirect it to files.
_NO_CAPTURE: dict[str, Any] = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}


# SHA-256 of what earlier releases wrote here: such a file nobody has changed, and it is brought up to date.
_WRITTEN_BEFORE = {"6aad0d9630d93271533c3ed4894fb79ad3e77ba2a31ee297ee9dacdf21117edd"}


def prepare_instance(home: Home) -> Path:
    """The folder for DAGSTER_HOME, with a dagster.yaml in it; one that somebody has changed is left as it is."""
    home.claim()
    folder = home.dagster
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dagster.yaml"
    if not path.exists() or content_hash(path.read_bytes()) in _WRITTEN_BEFORE:
        temporary = path.with_suffix(".yaml.new")
        temporary.write_text(_CONFIGURATION, encoding="utf-8")
        temporary.replace(path)
    return folder


def ui_environment(home: Home, config_path: Path) -> dict[str, str]:
    """What `dagster dev` needs in its environment, besides what is there, to show and follow this installation."""
    return {
        "DAGSTER_HOME": str(prepare_instance(home)),
        "LOCKSTEP_HOME": str(home.root),
        "LOCKSTEP_CONFIG": str(config_path.absolute()),
        # Each sensor that waits for news holds one of the code server's threads; there would be 6 on 2 cores.
        "DAGSTER_GRPC_MAX_WORKERS": "64",
    }


@contextmanager
def open_instance(home: Home) -> Iterator[dg.DagsterInstance]:
    """The persistent instance of a data folder, for jobs executed in this process; the UI shows them too."""
    from dagster._core.instance.ref import InstanceRef  # no public way to override single settings

    folder = str(prepare_instance(home))
    with quick_history(), dg.DagsterInstance.from_ref(InstanceRef.from_dir(folder, overrides=_NO_CAPTURE)) as instance:
        yield instance


@contextmanager
def quick_history() -> Iterator[None]:
    """Let SQLite write Dagster's events without waiting for the disk three times an event.

    Dagster opens and closes a connection for each event, and makes a SQLAlchemy engine for each connection. Three
    things then cost nearly all of a short run: the wait for the disk at each commit; moving the write-ahead log into
    its file, whenever the file's last connection is closed; and compiling the same few statements again for each new
    engine. Here commits do not wait (a power failure may lose the last lines of a run's history, never its consistency,
    and nothing of Lockstep's own tables), and one connection and one engine a file last until the block ends.
    """
    from dagster._core.storage.event_log.sqlite import sqlite_event_log
    from dagster._core.storage.runs.sqlite import sqlite_run_storage
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    kept = ExitStack()
    files: set[str] = set()
    engines: dict[str, Engine] = {}

    def one_engine(address: str, **options: Any) -> Engine:
        if address not in engines:
            engines[address] = create_engine(address, **options)
        return engines[address]

    def on_connect(connection: Any, _record: Any) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        connection.execute("PRAGMA synchronous=NORMAL")
        file = connection.execute("PRAGMA database_list").fetchone()[2]
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        if file and mode == "wal" and file not in files:
            files.add(file)
            keeper = kept.enter_context(closing(sqlite3.connect(file, check_same_thread=False)))
            keeper.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only a used connection counts

    create_engine = sqlite_event_log.create_engine  # type: ignore[attr-defined]  # Dagster's own export of it
    modules: tuple[Any, ...] = (sqlite_event_log, sqlite_run_storage)
    event.listen(Engine, "connect", on_connect)
    # There is no setting for it; both modules look the function up when they connect.
    for module in modules:
        module.create_engine = one_engine
    try:
        yield
    finally:
        for module in modules:
            module.create_engine = create_engine
        event.remove(Engine, "connect", on_connect)
        kept.close()
