"""A schema registry that speaks Confluent's HTTP interface: Apicurio, with its data in memory."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.servers.process import INSTALLED, HowToInstall, free_port, started, stopped

_HEAP = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    url: str

    def register(self, subject: str, schema: str, kind: str | None) -> int:
        """Put a schema there; its id."""
        content: dict[str, Any] = {"schema": schema} if kind is None else {"schema": schema, "schemaType": kind}
        answer = httpx.post(f"{self.url}/subjects/{subject}/versions", json=content, timeout=30)
        answer.raise_for_status()
        return int(answer.json()["id"])


@contextmanager
def schema_registry(folder: Path) -> Iterator[Registry]:
    """A registry without schemas."""
    installed = Path(os.environ.get("LOCKSTEP_SCHEMA_REGISTRY") or INSTALLED / "apicurio-registry")
    program = next(iter(installed.glob("apicurio-registry-app-*-runner.jar")), None)
    if shutil.which("java") is None:
        pytest.skip("java is missing; install a Java runtime of version 17 or later")
    if program is None:
        pytest.skip(HowToInstall("Apicurio's schema registry"))
    port = free_port()
    registry = Registry(f"http://127.0.0.1:{port}/apis/ccompat/v7")

    def answers() -> bool:
        try:
            return httpx.get(f"{registry.url}/schemas/types", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    place = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"]
    process = started(["java", *_HEAP, *place, "-jar", str(program)], folder / "registry.log", answers, cwd=installed)
    try:
        yield registry
    finally:
        stopped(process)
