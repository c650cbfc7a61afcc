"""What a person sees on the terminal: progress bars and tables on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.lake.derive import Progress


class Console:
    """Writes results; with `as_json` the last line of standard output is one JSON object and nothing else is there."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, value: Mapping[str, Any], lines: Sequence[str] = ()) -> None:
        """The result of a command: as JSON, or as the given lines."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
        else:
            sys.stdout.writelines(line + "\n" for line in lines)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Something worth knowing, on standard error."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


@contextmanager
def progress_bars() -> Iterator[StepBars]:
    """Progress bars on standard error: one a step, shown when the step has something to count."""
    from rich.console import Console as RichConsole
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bars = Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=RichConsole(stderr=True),
        transient=False,
    )
    with bars:
        yield StepBars(bars)


class StepBars:
    """Progress bars by step name."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def update(self, step: str, done: int, total: int) -> None:
        """The step has done that much."""
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total or None)
        self._bars.update(self._tasks[step], completed=done, total=total or None)

    def of(self, step: str) -> Progress:
        """A progress callback for one step."""
        return lambda done, total: self.update(step, done, total)


def columns(rows: Sequence[Sequence[object]], header: Sequence[str]) -> list[str]:
    """Rows as aligned text columns under a header."""
    table = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
