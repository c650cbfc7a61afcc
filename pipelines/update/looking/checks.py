"""Every source tried before it is used: side by side, so that one that hangs delays no other. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pipelines.project import Project
from pipelines.sources.base import Check
from pipelines.sources.registry import open_source
from pipelines.sources.section import SourceSection
from pipelines.update.looking.contact import Beat, side_by_side


@dataclass(frozen=True, slots=True)
class SourceChecks:
    """What was tried at one source, in that order."""

    source: str
    kind: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all of it went well."""
        return all(check.ok for check in self.checks)


def check_sources(project: Project, names: Sequence[str] = ()) -> list[SourceChecks]:
    """Try connection and permissions of these sources (none: of all), each for as long as its `stall_seconds`.

    What is wrong at a source, a secret that is not set, and an answer that does not come are checks that failed.

    Raises:
        ConfigError: no source has that name.
    """
    chosen = [project.config.source(name) for name in dict.fromkeys(names)] or list(project.config.sources)
    tried: dict[str, list[Check]] = {section.name: [] for section in chosen}
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    answers = side_by_side(
        {section.name: partial(_try, project, section, tried[section.name], seconds) for section in chosen},
        {section.name: section.stall_seconds for section in chosen},
    )
    found = []
    for section in chosen:
        checks = list(tried[section.name])
        answer = answers[section.name]
        if isinstance(answer, BaseException):
            checks.append(Check("answer", False, f"{type(answer).__name__}: {answer}"))
        took = seconds.get(section.name, time.perf_counter() - started)
        found.append(SourceChecks(section.name, section.kind, tuple(checks), took))
    return found


def _try(project: Project, section: SourceSection, tried: list[Check], seconds: dict[str, float], beat: Beat) -> None:
    started = time.perf_counter()
    try:
        for check in open_source(section, project.surroundings()).check():
            tried.append(check)
            beat()
    finally:
        seconds[section.name] = time.perf_counter() - started
