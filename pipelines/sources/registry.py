"""The kinds of sources: the one place where another kind is named. docs/sources.md shows how one is added.

A kind is a package of this folder with its section of the configuration, a class that reads it, and, where it can
announce its changes, a function that opens the stream of announcements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.sources.database.section import DatabaseSource
from pipelines.sources.database.source import Database
from pipelines.sources.filesystem.folder import Folder
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.kafka.section import KafkaSource
from pipelines.sources.kafka.source import open_kafka, open_kafka_stream
from pipelines.sources.records.source import RecordFile, RecordsSource
from pipelines.sources.s3.bucket import open_bucket, open_notifications
from pipelines.sources.s3.section import S3Source
from pipelines.sources.section import SourceSection
from pipelines.sources.webhook.source import WebhookSource, open_inbox, open_webhook

if TYPE_CHECKING:
    from pipelines.sources.base import Source, Stream
    from pipelines.sources.surroundings import Surroundings


def _no_stream(section: Any, around: Surroundings) -> Stream | None:
    del section, around
    return None


def _watch(section: FilesystemSource, around: Surroundings) -> Stream | None:
    from pipelines.sources.filesystem.watching import open_watch

    del around
    return open_watch(section)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of source.

    `open` gives the source, and connects to nothing yet. `stream` gives what announces its changes, or None where
    nothing does. Both get the section, which is of the type `section`, and what else the process has.
    """

    section: type[SourceSection]
    open: Callable[[Any, Surroundings], Source]
    stream: Callable[[Any, Surroundings], Stream | None] = _no_stream


KINDS: dict[str, Kind] = {
    "filesystem": Kind(FilesystemSource, lambda section, _around: Folder(section), _watch),
    "kafka": Kind(KafkaSource, open_kafka, open_kafka_stream),
    "records": Kind(RecordsSource, lambda section, _around: RecordFile(section)),
    "database": Kind(DatabaseSource, lambda section, _around: Database(section)),
    "s3": Kind(S3Source, open_bucket, open_notifications),
    "webhook": Kind(WebhookSource, open_webhook, open_inbox),
}


def open_source(section: SourceSection, around: Surroundings) -> Source:
    """The source that a section describes; nothing is read yet.

    Raises:
        ConfigError: a pattern can match nothing, a secret is not set, or the kind does not read what it names.
    """
    return KINDS[section.kind].open(section, around)


def open_stream(section: SourceSection, around: Surroundings) -> Stream | None:
    """What announces the changes of that source; None where nothing does, and only listings tell.

    Raises:
        ConfigError: a secret is not set.
        SourceError: it cannot be reached.
    """
    return KINDS[section.kind].stream(section, around)
