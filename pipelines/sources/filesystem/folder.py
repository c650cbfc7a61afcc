"""The source `filesystem`: a folder, walked. What is found and what is skipped; `files` reads single files.

Links inside the folder are not followed: what they point to is walked under its own name, so it is read once and
under the access rules of the place where it really lies. A link that leaves the folder is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from pipelines.errors import ConfigError, SourceError
from pipelines.sources.addresses.globs import PathFilter
from pipelines.sources.addresses.uris import decode_uri, encode_uri
from pipelines.sources.base import (
    Check,
    Fetched,
    FetchFailure,
    Hint,
    Listing,
    ListingBuilder,
    Problem,
    Progress,
    SourceItem,
)
from pipelines.sources.filesystem.files import FileReader, utc_from_nanoseconds
from pipelines.sources.filesystem.section import FilesystemSource

Scan = Callable[[bytes], AbstractContextManager[Iterator["os.DirEntry[bytes]"]]]
Folders = list[tuple[bytes, str]]
"""Paths and uris of folders that are still to be walked."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


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
        for _ in self._walk(root, [(b"", "")], found):
            pass
        self._still(identity)
        return found.build()

    def look(self, hints: Sequence[Hint]) -> Listing:
        """The selected files that the hints name, and all below those that are folders.

        Costs the names on the way to each hint and what lies below it, whatever else the folder holds.

        Raises:
            SourceError: as for `list`.
        """
        root, identity = self._root()
        found = ListingBuilder()
        for uri in _topmost(hints):
            for _ in self._walk(root, self._folders_of(root, uri, found), found):
                pass
        self._still(identity)
        return found.build()

    def check(self) -> Iterator[Check]:
        """Whether the folder can be listed, and whether the first document in it can be read."""
        try:
            root, _ = self._root()
            with self._scan(root) as opened:
                next(opened, None)
        except SourceError as error:
            yield Check("list", False, str(error))
            return
        except OSError as error:
            yield Check("list", False, str(self._unreadable(error)))
            return
        yield Check("list", True, f"{self._config.path} is a folder and can be listed")
        yield from self._check_watch(root)
        found = ListingBuilder()
        for number, _ in enumerate(self._walk(root, [(b"", "")], found)):
            if found.items or number >= _CHECKED_FOLDERS:
                break
        listing = found.build()
        unreadable = [problem for problem in listing.problems if problem.error_class in _UNREADABLE]
        if unreadable:
            yield Check("look", False, unreadable[0].message)
        if not len(listing.items):
            yield Check("read", True, "no file that `include` selects was met, so none was read")
            return
        uri = listing.items["uri"][0].as_py()
        answer = next(self._reader.read_all(root, [uri]))
        if isinstance(answer, FetchFailure):
            yield Check("read", False, answer.message)
        else:
            yield Check("read", True, f"{uri} was read ({answer.size_bytes:,} bytes)")

    def _check_watch(self, root: bytes) -> Iterator[Check]:
        if self._config.watch:
            from pipelines.sources.filesystem.watching import check_watch

            yield check_watch(self._config, root)

    def fetch(self, uris: Iterable[str]) -> Iterator[Fetched | FetchFailure]:
        """The bytes of each file, one at a time; files written a moment ago come last (see `files`)."""
        root, _ = self._root()
        return self._reader.read_all(root, uris)

    def _walk(self, root: bytes, folders: Folders, found: ListingBuilder) -> Iterator[None]:
        """Add what lies in these folders (path and uri) and below them; one step a folder."""
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
                        self._link(entry.path, root, below, found)
                    elif entry.is_dir(follow_symlinks=False):
                        if self._filter.enters(below):
                            inner.append((os.path.join(path, entry.name), below))  # noqa: PTH118
                    elif self._filter.selects(below):
                        self._file(entry.stat(follow_symlinks=False), below, found)
                except FileNotFoundError:
                    continue  # removed since the folder was read: it is not there
                except OSError as error:
                    found.problem(_unreadable_file(below, error))
            folders.extend(reversed(inner))
            yield

    def _folders_of(self, root: bytes, uri: str, found: ListingBuilder) -> Folders:
        """The folder that a hint names, to be walked; a file is added at once. Goes only where a listing would."""
        path = decode_uri(uri)
        if not uri:
            return [(b"", "")]
        names = path.split(b"/")
        if encode_uri(path) != uri or b"\0" in path or any(name in (b"", b".", b"..") for name in names):
            return []  # no document here has such a uri
        for depth in range(1, len(names) + 1):
            at, below = b"/".join(names[:depth]), encode_uri(b"/".join(names[:depth]))
            try:
                state = os.lstat(os.path.join(root, at))  # noqa: PTH118 (names are bytes)
                if stat.S_ISLNK(state.st_mode):
                    self._link(os.path.join(root, at), root, below, found)  # noqa: PTH118
                    return []
                if not stat.S_ISDIR(state.st_mode):
                    if depth == len(names) and self._filter.selects(below):
                        self._file(state, below, found)
                    return []
            except OSError as error:
                if error.errno not in _ABSENT:
                    found.problem(_unreadable_file(uri, error, subtree=True))
                return []
            if not self._filter.enters(below):
                return []
        return [(path, uri)]

    def _still(self, identity: tuple[int, int]) -> None:
        if self._root()[1] != identity:
            raise SourceError(
                f"source {self._config.name!r}: the folder {self._config.path} was replaced while it was listed "
                "(unmounted, or moved); nothing was changed, run the update again"
            )

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

    def _file(self, state: os.stat_result, uri: str, found: ListingBuilder) -> None:
        if not stat.S_ISREG(state.st_mode):
            kind = _KINDS.get(stat.S_IFMT(state.st_mode), "no ordinary file")
            text = f"{uri} is {kind} and was not opened; remove it, or name it in `exclude`"
            found.problem(Problem(uri, "SpecialFile", text))
        elif state.st_size > self._config.max_bytes:
            found.problem(Problem(uri, "TooLarge", self._reader.too_large(uri, state.st_size)))
        else:
            found.add(SourceItem(uri, state.st_size, modified_at=utc_from_nanoseconds(state.st_mtime_ns)))

    def _link(self, path: bytes, root: bytes, uri: str, found: ListingBuilder) -> None:
        """Nothing for a link to something inside the folder; a problem for any other."""
        try:
            target = os.path.realpath(path, strict=True)
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
        elif is_folder and path.startswith(target + b"/"):
            text = f"{uri} is a symbolic link to a folder that it lies in, a loop; it was not followed, and its "
            text += "target is read under its own name. Remove it, or name it in `exclude`"
            found.problem(Problem(uri, "SymlinkLoop", text))


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _unreadable_folder(uri: str, error: OSError) -> Problem:
    text = f"the folder {uri} could not be read: {_reason(error)}; allow reading it, or name '{uri}/**' in `exclude`. "
    text += "Its documents stay as they are until it can be read"
    return Problem(uri, "FolderUnreadable", text, transient=error.errno not in _LASTING, subtree=True)


def _unreadable_file(uri: str, error: OSError, *, subtree: bool = False) -> Problem:
    text = f"{uri} could not be looked at: {_reason(error)}; allow reading it, or name it in `exclude`"
    return Problem(uri, "FileUnreadable", text, transient=error.errno not in _LASTING, subtree=subtree)


def _topmost(hints: Sequence[Hint]) -> Iterator[str]:
    """The uris of the hints, each once, without those that lie below another."""
    uris = {hint.uri.strip("/") for hint in hints}
    for uri in sorted(uris):
        names = uri.split("/")
        above = ("/".join(names[:depth]) for depth in range(1, len(names)))
        if not uri or not ("" in uris or any(folder in uris for folder in above)):
            yield uri


_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})  # there is no such file
_UNREADABLE = frozenset({"FolderUnreadable", "FileUnreadable"})
_CHECKED_FOLDERS = 1_000  # in which a document to read is sought
_LASTING = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG})  # waiting does not cure these
