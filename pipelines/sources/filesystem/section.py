"""What the configuration of a source of kind `filesystem` has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pipelines.sources.section import Pattern, SourceSection


class FilesystemSource(SourceSection):
    """A folder, walked."""

    kind: Literal["filesystem"]
    path: Path
    include: tuple[Pattern, ...] = ("**/*",)
    exclude: tuple[Pattern, ...] = ()
    watch: bool = True  # be told of changes at once, besides listing

    def located(self, folder: Path) -> Self:
        """With `path` taken from the configuration file's folder."""
        return self.model_copy(update={"path": folder / self.path.expanduser()})
