"""What the configuration of every source has, whatever its kind; each kind adds its own keys in its own module."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from pipelines.errors import AccessError, ConfigError
from pipelines.principals import DEFAULT_TENANT, parse_principal, parse_tenant
from pipelines.sources.addresses.globs import check_pattern

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """The check as one of the configuration's: what it refuses is a wrong value there."""

    def checked(text: str) -> str:
        try:
            return check(text)
        except AccessError as error:
            raise ValueError(str(error)) from None

    return checked


Principal = Annotated[str, AfterValidator(_checked(parse_principal))]
Tenant = Annotated[str, AfterValidator(_checked(parse_tenant))]
Pattern = Annotated[str, AfterValidator(check_pattern)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Z_][A-Z0-9_]*$")]
"""The name of an environment variable that holds a secret; a secret itself is never in the configuration."""


class Section(BaseModel):
    """A part of the configuration: no unknown keys, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AccessRule(Section):
    """Who may read the documents whose uri matches; the first rule that matches decides."""

    match: Pattern
    readers: tuple[Principal, ...]


class SourceSection(Section):
    """One source. A kind's own section has a field `kind` with its name as the only value."""

    name: Name
    kind: str
    access: tuple[AccessRule, ...] = ()
    tenant: Tenant = DEFAULT_TENANT
    classification: str = "internal"
    max_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    monitor: bool = True  # False: the sensors leave it alone; an update by hand or by the clock still reads it
    every_seconds: float = Field(default=300, ge=1)  # between the listings that the sensors start
    fresh_within_seconds: float = Field(default=86_400, gt=0)  # older than that without a look: a warning
    stall_seconds: float = Field(default=60, gt=0)  # silent for longer than that: it hangs, and others go on

    @property
    def reports_readers(self) -> bool:
        """Whether the source itself may say who reads a document, where no rule of `access` does."""
        return False

    @property
    def announces_deletions(self) -> bool:
        """Whether each deletion was said by somebody, so that the guard against what a listing lacks does not ask."""
        return False

    def located(self, folder: Path) -> Self:
        """With relative paths taken from the configuration file's folder."""
        del folder
        return self


class StreamsConfig(Section):
    """How much of a flood is taken at a time; the rest waits where it is."""

    batch_events: int = Field(default=1_000, ge=1)  # made durable in one commit
    max_events_per_update: int = Field(default=20_000, ge=1)  # of a source, by an update of a sensor; the next goes on
    max_event_bytes: int = Field(default=8 * 1024 * 1024, gt=0)  # a larger one becomes a dead letter


class GuardConfig(Section):
    """Refuses an update that would delete more than this share of a source."""

    max_deleted_share: float = Field(default=0.3, ge=0, le=1)
    min_documents: int = Field(default=20, ge=0)  # smaller sources are not guarded
    window_seconds: float = Field(default=3_600.0, ge=0)  # deletions of that time count together: many small ones, too


def secret(section: SourceSection, variable: str) -> str:
    """The value of an environment variable that the section names.

    Raises:
        ConfigError: it is not set, or empty.
    """
    value = os.environ.get(variable, "")
    if not value:
        raise ConfigError(
            f"source {section.name!r}: the environment variable {variable} is not set, and its secret is expected "
            "there; set it for the process that runs Lockstep (for the UI: before `lockstep ui`)"
        )
    return value
