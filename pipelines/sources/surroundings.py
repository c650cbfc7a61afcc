"""What a source may use of the process that it runs in, besides its own section of the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pipelines.home import Home
from pipelines.lake.blobs import BlobStore
from pipelines.lake.events import EventLog
from pipelines.sources.section import StreamsConfig

AwsClient: TypeAlias = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Handed to a source when it is opened. Not shared between threads: each opens its own.

    `aws_client`: gives a boto3 client of a service ("s3", "sqs") for connection settings (region_name, endpoint_url,
    profile_name); None: the kind makes its own. `index` is the configured index's name, for default group names.
    """

    index: str
    home: Home
    events: EventLog
    blobs: BlobStore
    streams: StreamsConfig = field(default_factory=StreamsConfig)
    aws_client: AwsClient | None = None

    @classmethod
    def of(cls, home: Home, *, index: str = "index", streams: StreamsConfig | None = None) -> Surroundings:
        """Those of a data folder, with tables opened anew."""
        return cls(index, home, EventLog(home), BlobStore(home.blobs), streams or StreamsConfig())
