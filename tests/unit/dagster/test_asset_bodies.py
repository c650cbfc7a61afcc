"""Bodies in `assets` and `schedules` stay calls into the library: short, and without loops of their own making."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAX_LINES = 30
FUNCTIONS = [
    pytest.param(node, id=f"{path.parent.name}/{path.name}:{node.name}")
    for folder in ("assets", "schedules")
    for path in sorted((ROOT / folder).rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_body_is_at_most_thirty_lines(function: ast.FunctionDef) -> None:
    statements = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    lines = (statements[-1].end_lineno or 0) - statements[0].lineno + 1
    assert lines <= MAX_LINES, f"{function.name} has {lines} lines: move the work into the library"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_body_waits_for_nothing_and_swallows_nothing(function: ast.FunctionDef) -> None:
    assert not [node for node in ast.walk(function) if isinstance(node, ast.While | ast.ExceptHandler)]


def test_there_are_bodies_to_look_at() -> None:
    assert len(FUNCTIONS) > 10
