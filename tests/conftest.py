"""What tests of several modules share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for `encoder.model`, when a test needs a real encoder and not its quality."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session", autouse=True)
def _own_runtime_folder() -> Iterator[None]:
    """Encoders that commands keep warm are those of these tests, and end with them: their sockets are gone then."""
    # A short name, as paths of sockets must be; what still runs may be writing its log while the folder goes.
    with (
        tempfile.TemporaryDirectory(prefix="ls-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """Where LOCKSTEP_REQUIRE_INTEGRATION is set, as CI does, an integration test that skips has failed."""
    del call
    outcome: Any = yield
    report = outcome.get_result()
    required = os.environ.get("LOCKSTEP_REQUIRE_INTEGRATION") and item.get_closest_marker("integration")
    if report.skipped and required:
        report.outcome = "failed"
        report.longrepr = f"an integration test must not be skipped here: {report.longrepr}"
