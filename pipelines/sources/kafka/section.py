"""What the configuration of a source of kind `kafka` has, and which consumer group follows from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.sources.announced.announcements import AnnouncedSection
from pipelines.sources.section import Variable

_SECRET = re.compile(r"password|secret|\.pem$|jaas|token|^sasl\.username$")
_OURS = re.compile(
    r"^(enable\.auto\.commit|enable\.auto\.offset\.store|auto\.offset\.reset|group\.|bootstrap\.servers|"
    r"metadata\.broker\.list|security\.protocol|sasl\.mechanisms?|partition\.assignment\.strategy|"
    r"allow\.auto\.create\.topics|ssl\.ca\.location|.*_cb|plugin\.|.*\.cmd|ssl\.engine)"
)


class KafkaSource(AnnouncedSection):
    """A topic of change events (docs/events.md)."""

    kind: Literal["kafka"]
    bootstrap_servers: str = Field(min_length=1)  # host:port, several with commas
    topic: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")
    group: str | None = Field(default=None, min_length=1, max_length=249)  # None: lockstep.INDEX.SOURCE
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username_env: Variable | None = None
    password_env: Variable | None = None
    ca_location: Path | None = None  # certificates that vouch for the brokers; None: the system's
    schema_registry_url: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$")
    schema_registry_username_env: Variable | None = None
    schema_registry_password_env: Variable | None = None
    tombstones: Literal["reject", "ignore"] = "reject"  # a message without value and without the header "version"
    options: dict[str, str] = Field(default_factory=dict)  # of librdkafka, such as client.id; never secrets

    @field_validator("options")
    @classmethod
    def _options_are_free(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            if _SECRET.search(name):
                raise ValueError(f"{name} is a secret; use `username_env` and `password_env`, or files")
            if _OURS.match(name):
                raise ValueError(f"{name} is set by Lockstep, as offsets must not move before events are durable")
        return options

    @model_validator(mode="after")
    def _credentials_go_together(self) -> Self:
        named = self.username_env is not None and self.password_env is not None
        if self.security_protocol.startswith("SASL") and not (named and self.sasl_mechanism):
            raise ValueError(
                f"`security_protocol: {self.security_protocol}` needs `sasl_mechanism`, `username_env`, `password_env`"
            )
        if (self.schema_registry_username_env is None) != (self.schema_registry_password_env is None):
            raise ValueError("`schema_registry_username_env` and `schema_registry_password_env` go together")
        return self

    def located(self, folder: Path) -> Self:
        """With `ca_location` taken from the configuration file's folder."""
        if self.ca_location is None:
            return self
        return self.model_copy(update={"ca_location": folder / self.ca_location.expanduser()})


def group_of(section: KafkaSource, index: str) -> str:
    """The consumer group whose offsets say how far the topic was read."""
    return section.group or f"lockstep.{index}.{section.name}"
