"""ZIP containers (office documents, EPUB) checked before anything in them is unpacked."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from itertools import pairwise

from pipelines.parsing.failures import ArchiveBomb, Damaged, Encrypted
from pipelines.parsing.limits import Limits

_SMALL = 1 << 20  # a member that unpacks to less does no harm, whatever its ratio


class Container:
    """The members of a checked ZIP container.

    Raises:
        ArchiveBomb: it declares more members or bytes, or packs them more densely, than the configuration allows.
        Damaged: it is no readable ZIP file.
        Encrypted: its members are encrypted.
    """

    def __init__(self, content: bytes, config: Limits) -> None:
        self._config = config
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, IndexError) as error:
            raise Damaged(f"it is not a complete ZIP container: {error}") from None
        infos = self._zip.infolist()
        self._infos = {info.filename: info for info in infos}
        self._left = config.max_unpacked_bytes
        self._check(infos)

    def _check(self, infos: list[zipfile.ZipInfo]) -> None:
        config = self._config
        if len(infos) > config.max_archive_entries:
            raise ArchiveBomb(
                f"it holds {len(infos):,} entries, above parsing.max_archive_entries ({config.max_archive_entries:,})"
            )
        declared = sum(info.file_size for info in infos)
        if declared > config.max_unpacked_bytes:
            raise ArchiveBomb(
                f"it declares {declared:,} bytes unpacked, above parsing.max_unpacked_bytes "
                f"({config.max_unpacked_bytes:,})"
            )
        for info in infos:
            if info.file_size > _SMALL and info.file_size > config.max_compression_ratio * max(info.compress_size, 1):
                ratio = info.file_size / max(info.compress_size, 1)
                raise ArchiveBomb(
                    f"its member {info.filename!r} is packed {ratio:,.0f} to 1, above parsing.max_compression_ratio "
                    f"({config.max_compression_ratio:g})"
                )
        # Entries that share bytes: the way to a bomb whose declared sizes look harmless one by one
        spans = sorted((info.header_offset, info.header_offset + info.compress_size) for info in infos)
        if any(end > start for (_, end), (start, _) in pairwise(spans)):
            raise ArchiveBomb("its members overlap, as no program writes them")
        if any(info.flag_bits & 0x1 for info in infos):
            raise Encrypted("its members are encrypted; a password is needed")

    def names(self) -> list[str]:
        """Member names in the order of the container's directory."""
        return list(self._infos)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def head(self, name: str, size: int = 4_096) -> bytes:
        """The first bytes of a member; none when it cannot be unpacked."""
        try:
            with self._zip.open(self._infos[name]) as member:
                return member.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, RuntimeError):
            return b""

    def read(self, name: str) -> bytes:
        """The unpacked bytes of a member.

        Raises:
            ArchiveBomb: it unpacks to more than it declares, or all members read to more than is allowed.
            Damaged: there is no such member, or its bytes are damaged.
        """
        info = self._infos.get(name)
        if info is None:
            raise Damaged(f"its part {name!r} is missing")
        try:
            with self._zip.open(info) as member:
                data = member.read(info.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
            raise Damaged(f"its part {name!r} cannot be unpacked: {error}") from None
        except RuntimeError as error:  # zipfile's way to say that a password is needed
            raise Encrypted(f"its part {name!r} cannot be unpacked: {error}") from None
        self._left -= len(data)
        if len(data) > info.file_size or self._left < 0:
            raise ArchiveBomb(
                f"its part {name!r} unpacks to more than the container declares or the configuration allows"
            )
        return data


def repacked(container: Container, parts: Mapping[str, bytes]) -> bytes:
    """The container packed again, uncompressed, with some parts replaced; what is not XML is kept in name only.

    For libraries that open a package themselves: pictures and embedded files cannot cost anything any more.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as package:
        for name in container.names():
            if name in parts:
                package.writestr(name, parts[name])
            elif name.endswith((".xml", ".rels")):
                package.writestr(name, container.read(name))
            elif not name.endswith("/"):
                package.writestr(name, b"")  # relationships point at it, so it must be there
    return out.getvalue()


def refuse_entities(container: Container) -> None:
    """Refuse a container whose XML parts declare entities, which no office program writes.

    Raises:
        ArchiveBomb: such a part was found.
    """
    for name in container.names():
        if name.endswith((".xml", ".rels", ".opf", ".ncx", ".xhtml")) and b"<!ENTITY" in container.head(name):
            raise ArchiveBomb(f"its part {name!r} declares XML entities, as attacks do and office programs never do")
