"""What the configuration of a source of kind `s3` has."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.errors import ConfigError
from pipelines.sources.addresses.globs import PathFilter
from pipelines.sources.addresses.uris import decode_uri, encode_key
from pipelines.sources.s3.pages import EVERYTHING
from pipelines.sources.section import Pattern, SourceSection


class S3Source(SourceSection):
    """Objects of a bucket. Credentials come from AWS's own chain: environment, profile, or the machine's role."""

    kind: Literal["s3"]
    bucket: str = Field(min_length=1)
    prefix: str = ""
    include: tuple[Pattern, ...] = EVERYTHING
    exclude: tuple[Pattern, ...] = ()
    endpoint_url: str | None = None  # of another store with S3's protocol
    region: str | None = None
    profile: str | None = None
    versions: bool = False  # each version of an object counts as a change, also one with the same content
    fetches_at_once: int = Field(default=32, ge=1, le=64)  # objects read side by side
    queue_url: str | None = None  # SQS queue that receives the bucket's notifications
    queue_endpoint_url: str | None = None

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_folder(cls, prefix: str) -> str:
        if prefix and not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} would also match {prefix + '-old/...'!r}; write {prefix + '/'!r}")
        return prefix

    @model_validator(mode="after")
    def _queue_is_there_for_its_endpoint(self) -> Self:
        if self.queue_endpoint_url and not self.queue_url:
            raise ValueError("`queue_endpoint_url` is set and `queue_url` is not; name the queue too")
        return self

    def settings(self) -> dict[str, Any]:
        """What a client of the bucket is made with."""
        given = {"region_name": self.region, "endpoint_url": self.endpoint_url, "profile_name": self.profile}
        return {name: value for name, value in given.items() if value}

    def key_of(self, uri: str) -> str | None:
        """The key of a document, None for a uri that no object of this source has."""
        try:
            key = decode_uri(uri).decode("utf-8")
        except UnicodeDecodeError:
            return None
        return self.prefix + key if key and encode_key(key) == uri else None

    def selection(self) -> PathFilter:
        """Which keys are documents.

        Raises:
            ConfigError: a pattern can match nothing.
        """
        try:
            return PathFilter.compile(self.include, self.exclude)
        except ValueError as error:
            raise ConfigError(f"source {self.name!r}: include/exclude: {error}") from error
