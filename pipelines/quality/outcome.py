"""What one expectation found; the same record whichever engine looked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["error", "warn"]
SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True)
class ExpectationOutcome:
    """One expectation on one table.

    Attributes:
        name: of the expectation, unique in its table's suite.
        passed: whether every row that was looked at is as expected; true when there was none.
        severity: "error" must stop a promotion, "warn" should be looked at.
        expected: in words.
        observed: in words, with the number of failing rows and an example.
        failing_rows: at most 20, each with the table's key columns and the columns of the expectation.
        checked_rows: rows that the expectation applied to.
    """

    name: str
    passed: bool
    severity: Severity
    expected: str
    observed: str
    failing_rows: tuple[dict[str, Any], ...]
    checked_rows: int
