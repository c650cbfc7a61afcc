"""Which class reads which kind of source: the one place to add another kind."""

from __future__ import annotations

from pipelines.config import FilesystemSource, RecordsSource, SourceConfig
from pipelines.sources.base import Source
from pipelines.sources.filesystem import Folder
from pipelines.sources.records import RecordFile


def _open_folder(config: SourceConfig) -> Source:
    assert isinstance(config, FilesystemSource)
    return Folder(config)


def _open_records(config: SourceConfig) -> Source:
    assert isinstance(config, RecordsSource)
    return RecordFile(config)


_KINDS = {"filesystem": _open_folder, "records": _open_records}


def open_source(config: SourceConfig) -> Source:
    """The source that a configuration describes; nothing is read yet.

    Raises:
        ConfigError: a pattern can match nothing, or the kind does not read files of that name.
    """
    return _KINDS[config.kind](config)
