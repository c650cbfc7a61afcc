"""versitygw: a real S3 gateway over a folder."""

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.aws import new_client
from tests.integration.servers.process import INSTALLED, HowToInstall, free_port, started, stopped

ACCESS_KEY, SECRET_KEY, REGION = "lockstep-test", "lockstep-test-secret", "us-east-1"
CREDENTIALS = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "region_name": REGION}


@dataclass
class Gateway:
    """A running gateway. A bucket is a folder below `folder`; `stop` and `start` keep the port."""

    url: str
    folder: Path
    port: int
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        meta = [f"--sidecar={self.folder.parent / 'meta'}"] if not _has_attributes(self.folder) else []
        versions = self.folder.parent / "versions"
        versions.mkdir(exist_ok=True)
        (self.folder.parent / "meta").mkdir(exist_ok=True)
        command = [
            str(_binary()), "--port", f"127.0.0.1:{self.port}", "--access", ACCESS_KEY, "--secret", SECRET_KEY,
            "--region", REGION, "--quiet", "posix", *meta, f"--versioning-dir={versions}", str(self.folder),
        ]  # fmt: skip
        self._process = started(command, self.folder.parent / "gateway.log", self._answers)

    def stop(self) -> None:
        if self._process is not None:
            stopped(self._process)
            self._process = None

    def client(self, service: str = "s3", **settings: Any) -> Any:
        return new_client(service, endpoint_url=self.url, **CREDENTIALS, **settings)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=1).close()
        except urllib.error.HTTPError:
            return True  # it refuses who does not sign, and so it is there
        except OSError:
            return False
        return True


@contextmanager
def s3_gateway(folder: Path) -> Iterator[Gateway]:
    """A gateway over an empty folder below `folder`."""
    _binary()
    root = folder / "buckets"
    root.mkdir(parents=True)
    port = free_port()
    gateway = Gateway(f"http://127.0.0.1:{port}", root, port)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()


def _binary() -> Path:
    found = os.environ.get("LOCKSTEP_VERSITYGW") or shutil.which("versitygw") or INSTALLED / "bin" / "versitygw"
    if not Path(found).exists():
        pytest.skip(HowToInstall("versitygw"))
    return Path(found)


def _has_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.lockstep-test", b"1")
    except OSError:
        return False
    return True
