"""Expectations evaluated on Arrow columns, in milliseconds: for updates, which cannot wait for a larger library."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.quality.expectations import Expectation
from pipelines.quality.outcome import SHOWN_ROWS, ExpectationOutcome


def evaluate(expectations: Sequence[Expectation], rows: pa.Table, keys: Sequence[str]) -> list[ExpectationOutcome]:
    """The outcome of each expectation on measured rows, in their order."""
    found = []
    for expectation in expectations:
        applies = expectation.applies(rows)
        failing = pc.and_(applies, pc.invert(pc.fill_null(expectation.holds(rows), True)))
        count = pc.sum(failing).as_py() or 0
        shown = failing_rows(expectation, rows.filter(failing).slice(0, SHOWN_ROWS), keys) if count else ()
        found.append(outcome(expectation, checked=pc.sum(applies).as_py() or 0, failed=count, shown=shown))
    return found


def failing_rows(expectation: Expectation, rows: pa.Table, keys: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """Those rows' keys, and the values that the expectation is about."""
    shown = rows.select(list(dict.fromkeys((*keys, *expectation.columns))))
    return tuple({name: _plain(value) for name, value in row.items()} for row in shown.to_pylist())


def outcome(
    expectation: Expectation, *, checked: int, failed: int, shown: tuple[dict[str, Any], ...] = ()
) -> ExpectationOutcome:
    """The record, with what was observed in words."""
    observed = f"all {checked} rows" if checked else "no row to check"
    if failed:
        example = ", ".join(f"{name}={value!r}" for name, value in shown[0].items()) if shown else "none shown"
        observed = f"{failed} of {checked} rows do not; the first: {example}"
    return ExpectationOutcome(
        name=expectation.name,
        passed=failed == 0,
        severity=expectation.severity,
        expected=expectation.expected,
        observed=observed,
        failing_rows=shown,
        checked_rows=checked,
    )


def _plain(value: Any) -> Any:
    """A value that JSON knows."""
    return value.isoformat() if isinstance(value, date | datetime) else value
