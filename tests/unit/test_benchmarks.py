"""Each benchmark can be started: its imports and its options are those of today's code."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported(name: str) -> None:
    try:
        importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as missing:
        extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["bench"]
        packages = {re.split(r"[^\w-]", one)[0].replace("-", "_") for one in extra}
        if missing.name not in packages:
            raise
        pytest.skip(f"{missing.name} belongs to the extra lockstep[bench]")


def test_the_page_names_every_benchmark_and_no_other() -> None:
    told = set(re.findall(r"-m benchmarks\.(\w+)", (ROOT / "benchmarks" / "README.md").read_text()))
    runnable = {name for name in NAMES if "__main__" in (ROOT / "benchmarks" / f"{name}.py").read_text()}
    assert told == runnable - {"stand_in"}  # which is run by the others
