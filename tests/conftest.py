"""What tests of several modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder for `encoder.model`, when a test needs a real encoder and not its quality."""
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
