"""Milvus filter expressions from plain values, escaped, in portions that the server accepts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipelines.index.protocol import Visible
from pipelines.lake.portions import Portion

PORTION = 2_000  # values of one `in [...]`: about 80 KB of expression for our hashes

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def quote(value: str) -> str:
    """A string literal that reads back as `value`, whatever it contains."""
    return f'"{value.translate(_ESCAPES)}"'


def any_string(field: str, values: Iterable[str]) -> str:
    """`field in [...]` for strings. No value matches nothing."""
    return f"{field} in [{', '.join(map(quote, values))}]"


def any_integer(field: str, values: Iterable[int]) -> str:
    """`field in [...]` for integers, sorted and without duplicates, so that equal sets are equal expressions."""
    return f"{field} in [{', '.join(str(int(value)) for value in sorted(set(values)))}]"


def within(field: str, portion: Portion) -> str:
    """The values of a field that lie in a range; empty for the range that has them all."""
    bounds = [f"{field} >= {quote(portion.start)}"] if portion.start else []
    bounds += [] if portion.stop is None else [f"{field} < {quote(portion.stop)}"]
    return " and ".join(bounds)


def shown(visible: Visible) -> str:
    """The rows that somebody may be shown. Equal rights are equal expressions."""
    expression = f"tenant == {quote(visible.tenant)} and {any_integer('acl_id', visible.acl_ids)}"
    if visible.withheld:
        expression += f" and doc_id not in [{', '.join(map(quote, sorted(visible.withheld)))}]"
    return expression


def portions(values: Sequence[str], size: int = PORTION) -> Iterator[Sequence[str]]:
    """`values` in slices of at most `size`."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
