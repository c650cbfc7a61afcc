"""Expectations evaluated by Great Expectations, on the rows of an update or on all, and for its Data Docs.

Importing it costs 5 s of processor time, hence never in an update by default (`check_table`). Measured afterwards: 20
expectations take 0.3 s on 100 rows and 2 s on 100,000.
"""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.quality.arrow_engine import failing_rows, outcome
from pipelines.quality.expectations import Below, Between, Expectation, Matches, NotNull, OneOf, Unique
from pipelines.quality.outcome import SHOWN_ROWS, ExpectationOutcome

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuite, ExpectationSuiteValidationResult

_SEVERITIES = {"error": "critical", "warn": "warning"}


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation of a table: the outcomes, and what Great Expectations' pages are made from."""

    outcomes: list[ExpectationOutcome]
    suite: ExpectationSuite
    result: ExpectationSuiteValidationResult


def validate(
    table: str, expectations: Sequence[Expectation], rows: pa.Table, keys: Sequence[str], *, whole: bool
) -> Validation:
    """Let Great Expectations look at measured rows, all expectations in one validation.

    Args:
        table: names suite and batch.
        expectations: those of the table.
        rows: scalar columns only.
        keys: the columns that name a failing row.
        whole: whether they are all rows of the table; then it finds doubled keys by itself.
    """
    gx = _library()
    context = _context()
    asset = context.data_sources.add_pandas("lake").add_dataframe_asset(table)
    batch = asset.add_batch_definition_whole_dataframe("rows")
    translated = [_translated(expectation, whole=whole) for expectation in expectations]
    suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=translated))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=table, data=batch, suite=suite))
    result = definition.run(
        batch_parameters={"dataframe": _frame(expectations, rows, keys)},
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": SHOWN_ROWS},
    )
    by_name = {_name(found): found for found in result.results}
    outcomes = [_outcome(expectation, by_name[expectation.name], rows, keys) for expectation in expectations]
    for found in result.results:  # its pages show these values without escaping them; ours name the rows instead
        found.result.pop("partial_unexpected_list", None)
        found.result.pop("partial_unexpected_counts", None)
    return Validation(outcomes, suite, result)


def _library() -> Any:
    """Great Expectations, with what its import does to the process undone."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():  # also puts back how warnings are shown: it sends all of them to the log
        warnings.filterwarnings("ignore", r"module 'sre_\w+' is deprecated", DeprecationWarning)
        library = importlib.import_module("great_expectations")
        logging.captureWarnings(False)
    return library


def _context() -> Any:
    """A context in memory: nothing is stored, sent, shown as a progress bar, or left in the temporary folder."""
    base: Any = importlib.import_module("great_expectations.data_context.types.base")
    configuration = base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(),
        analytics_enabled=False,
        progress_bars=base.ProgressBarsConfig(globally=False),
    )
    return _library().get_context(mode="ephemeral", project_config=configuration)


def _frame(expectations: Sequence[Expectation], rows: pa.Table, keys: Sequence[str]) -> Any:
    """The columns that are looked at, as a pandas data frame."""
    used = dict.fromkeys(keys)
    for expectation in expectations:
        used |= dict.fromkeys((*expectation.columns, *((expectation.when[0],) if expectation.when else ())))
    return rows.select(list(used)).to_pandas()


def _translated(expectation: Expectation, *, whole: bool) -> Any:
    """The same expectation in Great Expectations' words."""
    from great_expectations.expectations.row_conditions import Column

    gxe: Any = importlib.import_module("great_expectations.expectations")  # its type information exports no names

    common: dict[str, Any] = {
        "meta": {"name": expectation.name},
        "description": f"{expectation.name}: {expectation.expected}",
        "severity": _SEVERITIES[expectation.severity],
    }
    if expectation.when is not None:
        column, values = expectation.when
        common["row_condition"] = Column(column).is_in(list(values))
    match expectation:
        case NotNull(column=column):
            return gxe.ExpectColumnValuesToNotBeNull(column=column, **common)
        case OneOf(column=column, values=allowed):
            return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(allowed), **common)
        case Matches(column=column, pattern=pattern):
            return gxe.ExpectColumnValuesToMatchRegex(column=column, regex=pattern, **common)
        case Between(column=column, minimum=minimum, maximum=maximum):
            return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=minimum, max_value=maximum, **common)
        case Below(column=column, other=other):
            return gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=other, column_B=column, ignore_row_if="either_value_is_missing", **common
            )
        case Unique(key=(column,)) if whole:
            return gxe.ExpectColumnValuesToBeUnique(column=column, **common)
        case Unique(key=columns) if whole:
            return gxe.ExpectCompoundColumnsToBeUnique(column_list=list(columns), **common)
        case Unique(column=column):
            return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=1, max_value=1, **common)
    raise TypeError(f"no translation for {expectation!r}")


def _name(found: Any) -> str:
    return str(found.expectation_config.meta["name"])


def _outcome(expectation: Expectation, found: Any, rows: pa.Table, keys: Sequence[str]) -> ExpectationOutcome:
    checked = pc.sum(expectation.applies(rows)).as_py() or 0
    if "unexpected_count" not in found.result:
        reason = f"could not be evaluated: {found.exception_info}"
        return replace(outcome(expectation, checked=0, failed=0), passed=False, observed=reason)
    positions = found.result.get("partial_unexpected_index_list") or []
    shown = failing_rows(expectation, rows.take(pa.array(positions, pa.int64())), keys)
    return outcome(expectation, checked=checked, failed=found.result["unexpected_count"], shown=shown)
