"""Raw bytes of documents, kept once per content hash, so that a new parser never needs the source again."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import fsspec

from pipelines.errors import LakeError
from pipelines.identity import content_hash

_UNTOUCHED_SECONDS = 3_600.0  # a blob that was stored a moment ago may be named by a row that is on its way
_PORTION = 1_000


@dataclass(frozen=True, slots=True)
class Unused:
    """What nothing named, and how large it was: whole blobs, and the leftovers of writes that were killed."""

    blobs: int
    scratch: int
    size_bytes: int


class BlobStore:
    """A content-addressed folder, local or in an object store (any fsspec address).

    Safe to pickle: the file system is opened on first use in each process.
    """

    def __init__(self, root: str | os.PathLike[str], *, storage_options: Mapping[str, str] | None = None) -> None:
        self._root = os.fspath(root).rstrip("/")
        self._options = dict(storage_options or {})
        self._fs: fsspec.AbstractFileSystem | None = None
        self._made: set[str] = set()  # folders that are there: asking again for every blob would take a third of `put`

    def __getstate__(self) -> dict[str, object]:
        return {"_root": self._root, "_options": self._options, "_fs": None, "_made": set()}

    def put(self, content: bytes) -> str:
        """Store bytes and return their content hash; bytes that are already there are not written again.

        Raises:
            LakeError: they could not be written; nothing half-written becomes visible.
        """
        key = content_hash(content)
        path = self._path(key)
        fs = self._open()
        temporary = f"{self._root}/incoming/{uuid.uuid4().hex}"
        try:
            if self._keep(path) == len(content):
                return key
            for file in (temporary, path):
                folder = file.rpartition("/")[0]
                if folder not in self._made:
                    fs.makedirs(folder, exist_ok=True)
                    self._made.add(folder)
            fs.pipe_file(temporary, content)
            fs.mv(temporary, path)
        except OSError as error:
            self._made.clear()
            if fs.exists(temporary):
                fs.rm_file(temporary)
            raise LakeError(
                f"storing {len(content)} bytes as blob {key} under {self._root} failed: {error}; "
                "free space or correct the folder's permissions, then run the update again"
            ) from error
        return key

    def read(self, key: str) -> bytes:
        """The bytes of that content hash, checked against it.

        Raises:
            LakeError: the blob is missing or damaged.
        """
        path = self._path(key)
        try:
            content: bytes = self._open().cat_file(path)
        except OSError as error:
            raise LakeError(
                f"blob {key} is missing under {self._root} ({error.__class__.__name__}); run `lockstep update --full`, "
                "which reads every document again, or restore the folder from a backup"
            ) from error
        if content_hash(content) != key:
            raise LakeError(
                f"blob {key} under {self._root} is damaged (its bytes have another hash); delete {path} and run "
                "`lockstep update --full`, which reads every document again"
            )
        return content

    def exists(self, key: str) -> bool:
        """Whether that content is stored."""
        return bool(self._open().exists(self._path(key)))

    def remove_unused(self, used: Callable[[], AbstractContextManager[Set[str]]], *, dry_run: bool = False) -> Unused:
        """Remove blobs that nothing names, in a local folder; and what writes that were killed have left.

        Args:
            used: gives the content hashes that are named, and lets nobody name more while a portion of blobs goes;
                entered anew for each portion, so that nobody waits for long.
            dry_run: only tell.
        """
        fs = self._open()
        now = time.time()
        blobs = scratch = size = 0
        found = fs.find(self._root, detail=True) if fs.exists(self._root) else {}
        old = [(path, info) for path, info in found.items() if now - _modified(info) > _UNTOUCHED_SECONDS]
        with used() as named:  # what is named costs in proportion to everything: once for all, then for those alone
            old = [(path, info) for path, info in old if path.rpartition("/")[2] not in named]
        for start in range(0, len(old), _PORTION):
            with used() as named:
                for path, info in old[start : start + _PORTION]:
                    key = path.rpartition("/")[2]
                    if key in named or not (dry_run or self._remove(fs, path)):
                        continue
                    size += int(info["size"])
                    if "/incoming/" in path:
                        scratch += 1
                    else:
                        blobs += 1
        return Unused(blobs, scratch, size)

    def _remove(self, fs: fsspec.AbstractFileSystem, path: str) -> bool:
        """Whether it is gone: a blob that somebody stored again in this moment comes back."""
        aside = f"{self._root}/incoming/{uuid.uuid4().hex}"
        fs.makedirs(f"{self._root}/incoming", exist_ok=True)
        fs.mv(path, aside)
        if time.time() - _modified(fs.info(aside)) <= _UNTOUCHED_SECONDS:
            fs.mv(aside, path)
            return False
        fs.rm_file(aside)
        return True

    def _keep(self, path: str) -> int | None:
        """Its size, None when it is not there; from now on it counts as just written, and is not removed as unused."""
        if self._size(path) is None:
            return None
        with suppress(FileNotFoundError, NotImplementedError):  # just removed; or an object store
            self._open().touch(path, truncate=False)
        return self._size(path)

    def _size(self, path: str) -> int | None:
        try:
            return int(self._open().info(path)["size"])
        except FileNotFoundError:
            return None

    def _path(self, key: str) -> str:
        return f"{self._root}/{key[:2]}/{key}"

    def _open(self) -> fsspec.AbstractFileSystem:
        if self._fs is None:
            self._fs, _ = fsspec.core.url_to_fs(self._root, **self._options)
        return self._fs


def _modified(info: Mapping[str, Any]) -> float:
    value = info.get("mtime") or info.get("LastModified") or time.time()
    return float(value if isinstance(value, int | float) else value.timestamp())
