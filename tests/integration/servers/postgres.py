"""PostgreSQL in a folder of its own, started as the user postgres where the tests run as root."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.servers.process import HowToInstall, free_port, started, stopped

USER, PASSWORD = "lockstep", "lockstep-test-secret"


@dataclass
class Postgres:
    """A running server with the database `lockstep`; `stop` and `start` keep the port."""

    port: int
    data: Path
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Without the password, as a configuration has it."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/lockstep"

    @property
    def url_with_password(self) -> str:
        return self.url.replace(f"{USER}@", f"{USER}:{PASSWORD}@")

    def start(self) -> None:
        command = [
            str(_bin() / "postgres"), "-D", str(self.data), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=", "-c", "fsync=off",
        ]  # fmt: skip
        ready = [str(_bin() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        self._process = started(
            [*_as_postgres(), *command],
            self.data.parent / "postgres.log",
            lambda: subprocess.run(ready, check=False).returncode == 0,
            cwd=self.data,
        )

    def stop(self) -> None:
        """End it at once, connections and all."""
        if self._process is None:
            return
        control = [str(_bin() / "pg_ctl"), "stop", "-D", str(self.data), "-m", "immediate", "-s"]
        subprocess.run([*_as_postgres(), *control], check=False, cwd=self.data)
        stopped(self._process)
        self._process = None


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A server with an empty database. Its data is not below `folder`, which another user could not enter."""
    del folder
    _bin()
    root = Path(tempfile.mkdtemp(prefix="lockstep-postgres-"))
    data, secret = root / "data", root / "secret"
    try:
        data.mkdir()
        secret.write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (root, data, secret):
                shutil.chown(path, "postgres")
        initdb = [
            str(_bin() / "initdb"), "-D", str(data), "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}",
            "-E", "UTF8", "--locale=C", "--no-sync",
        ]  # fmt: skip
        subprocess.run([*_as_postgres(), *initdb], check=True, capture_output=True, cwd=root)
        server = Postgres(free_port(), data)
        server.start()
        try:
            create = [str(_bin() / "createdb"), "-h", "127.0.0.1", "-p", str(server.port), "-U", USER, "lockstep"]
            subprocess.run(create, check=True, capture_output=True, env={**os.environ, "PGPASSWORD": PASSWORD})
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _bin() -> Path:
    named = os.environ.get("LOCKSTEP_POSTGRES_BIN")
    found = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not found or not (found[0] / "initdb").exists():
        pytest.skip(HowToInstall("PostgreSQL"))
    return found[0]


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return []
    account = pwd.getpwnam("postgres")
    return [
        "setpriv",
        "--pdeathsig=TERM",
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "--",
    ]
