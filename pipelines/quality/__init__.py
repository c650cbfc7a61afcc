"""Expectations on the tables: what must be true of their rows, checked on what a run changed or on everything.

Importing this package is cheap; Great Expectations is imported when it is asked to look.
"""

from __future__ import annotations

from pipelines.quality.check import Engine, Scope, check_table
from pipelines.quality.outcome import ExpectationOutcome, Severity
from pipelines.quality.suite import Limits
from pipelines.quality.suites import SUITES

__all__ = ["SUITES", "Engine", "ExpectationOutcome", "Limits", "Scope", "Severity", "check_table"]
