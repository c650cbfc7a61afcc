"""The source `filesystem`: a folder, walked. What is found and what is skipped; `files` reads single files.

Links inside the folder are not followed: what they point to is walked under its own name, so it is read once and
under the access rules of the place where it really lies. A link that leaves the folder is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Self

from pipelines.errors import ConfigError, SourceError
from pipelines.sources.base import (
    Fetched,
    FetchFailure,
    Listing,
    ListingBuilder,
    Problem,
    Progress,
    SourceItem,
)
from pipelines.sources.files import FileReader, utc_from_nanoseconds
from pipelines.sources.globs import PathFilter
from pipelines.sources.section import Pattern, SourceSection
from pipelines.sources.uris import encode_uri

Scan = Callable[[bytes], AbstractContextManager[Iterator["os.DirEntry[bytes]"]]]

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


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


class Folder:
    """A folder as a source. `scan` and `reader` are how it is read; tests put failing ones there."""

    def __init__(self, config: FilesystemSource, *, scan: Scan | None = None, reader: FileReader | None = None) -> None:
        self._config = config
        self._scan: Scan = os.scandir if scan is None else scan
        try:
            self._filter = PathFilter.compile(config.include, config.exclude)
        except ValueError as error:
            raise ConfigError(f"source {config.name!r}: include/exclude: {error}") from error
        self._reader = reader or FileReader(max_bytes=config.max_bytes)

    def list(self, *, progress: Progress | None = None) -> Listing:
        """Every selected file with size and modification time; no file is opened.

        Raises:
            SourceError: the folder is missing, is no folder, cannot be read, or was replaced during the walk.
        """
        root, identity = self._root()
        found = ListingBuilder(progress)
        folders: list[tuple[bytes, str]] = [(b"", "")]
        while folders:
            path, uri = folders.pop()
            try:
                with self._scan(os.path.join(root, path)) as opened:  # noqa: PTH118 (names are bytes)
                    entries = sorted(opened, key=lambda entry: entry.name)
            except OSError as error:
                if not path:
                    raise self._unreadable(error) from error
                found.problem(_unreadable_folder(uri, error))
                continue
            inner = []
            for entry in entries:
                below = f"{uri}/{encode_uri(entry.name)}" if uri else encode_uri(entry.name)
                try:
                    if entry.is_symlink():
                        self._link(entry, root, below, found)
                    elif entry.is_dir(follow_symlinks=False):
                        if self._filter.enters(below):
                            inner.append((os.path.join(path, entry.name), below))  # noqa: PTH118
                    elif self._filter.selects(below):
                        self._file(entry, below, found)
                except FileNotFoundError:
                    continue  # removed since the folder was read: it is not there
                except OSError as error:
                    found.problem(_unreadable_file(below, error))
            folders.extend(reversed(inner))
        if self._root()[1] != identity:
            raise SourceError(
                f"source {self._config.name!r}: the folder {self._config.path} was replaced while it was listed "
                "(unmounted, or moved); nothing was changed, run the update again"
            )
        return found.build()

    def fetch(self, uris: Iterable[str]) -> Iterator[Fetched | FetchFailure]:
        """The bytes of each file, one at a time; files written a moment ago come last (see `files`)."""
        root, _ = self._root()
        return self._reader.read_all(root, uris)

    def _root(self) -> tuple[bytes, tuple[int, int]]:
        try:
            root = os.path.realpath(os.fsencode(self._config.path), strict=True)
            found = os.stat(root)  # noqa: PTH116 (names are bytes)
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISDIR(found.st_mode):
            raise SourceError(
                f"source {self._config.name!r}: `path` is {self._config.path}, which is no folder; name the folder, "
                "or use `kind: records` for a file of records"
            )
        return root, (found.st_dev, found.st_ino)

    def _unreadable(self, error: OSError) -> SourceError:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {_reason(error)}"
        return SourceError(
            f"source {self._config.name!r}: the folder {self._config.path} {what}; mount it, allow reading it, or "
            f"correct the key `path` of this source. No document was changed or deleted"
        )

    def _file(self, entry: os.DirEntry[bytes], uri: str, found: ListingBuilder) -> None:
        state = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(state.st_mode):
            kind = _KINDS.get(stat.S_IFMT(state.st_mode), "no ordinary file")
            text = f"{uri} is {kind} and was not opened; remove it, or name it in `exclude`"
            found.problem(Problem(uri, "SpecialFile", text))
        elif state.st_size > self._config.max_bytes:
            found.problem(Problem(uri, "TooLarge", self._reader.too_large(uri, state.st_size)))
        else:
            found.add(SourceItem(uri, state.st_size, modified_at=utc_from_nanoseconds(state.st_mtime_ns)))

    def _link(self, entry: os.DirEntry[bytes], root: bytes, uri: str, found: ListingBuilder) -> None:
        """Nothing for a link to something inside the folder; a problem for any other."""
        try:
            target = os.path.realpath(entry.path, strict=True)
        except OSError as error:
            if not self._filter.selects(uri):
                return
            if error.errno == errno.ELOOP:
                text = f"{uri} is a symbolic link that leads to itself; remove it, or name it in `exclude`"
                found.problem(Problem(uri, "SymlinkLoop", text))
            elif isinstance(error, FileNotFoundError):
                text = f"{uri} is a symbolic link to something that does not exist; restore its target or remove it"
                found.problem(Problem(uri, "SymlinkBroken", text))
            else:
                found.problem(_unreadable_file(uri, error))
            return
        is_folder = os.path.isdir(target)  # noqa: PTH112 (names are bytes)
        if not (self._filter.enters(uri) if is_folder else self._filter.selects(uri)):
            return
        if target != root and not target.startswith(root.rstrip(b"/") + b"/"):
            text = f"{uri} is a symbolic link out of the source's folder and was not followed; copy its target into "
            text += "the folder, make the target a source of its own, or name the link in `exclude`"
            found.problem(Problem(uri, "SymlinkOutside", text, subtree=is_folder))
        elif is_folder and entry.path.startswith(target + b"/"):
            text = f"{uri} is a symbolic link to a folder that it lies in, a loop; it was not followed, and its "
            text += "target is read under its own name. Remove it, or name it in `exclude`"
            found.problem(Problem(uri, "SymlinkLoop", text))


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _unreadable_folder(uri: str, error: OSError) -> Problem:
    text = f"the folder {uri} could not be read: {_reason(error)}; allow reading it, or name '{uri}/**' in `exclude`. "
    text += "Its documents stay as they are until it can be read"
    return Problem(uri, "FolderUnreadable", text, transient=error.errno not in _LASTING, subtree=True)


def _unreadable_file(uri: str, error: OSError) -> Problem:
    text = f"{uri} could not be looked at: {_reason(error)}; allow reading it, or name it in `exclude`"
    return Problem(uri, "FileUnreadable", text, transient=error.errno not in _LASTING)


_LASTING = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG})  # waiting does not cure these
