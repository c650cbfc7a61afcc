"""Messages between the parse pool and its workers: a JSON header and raw bytes, each prefixed with its length.

JSON, not pickle: a worker that a hostile document has taken over can send nothing but data.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

_PREFIX = struct.Struct(">IQ")  # bytes of header, bytes of body


def pack(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """One message."""
    # ASCII: lone surrogates in a value survive the pipe, whatever produced them
    raw = json.dumps(header, separators=(",", ":")).encode("ascii")
    return _PREFIX.pack(len(raw), len(body)) + raw + body


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, blocking.

    Raises:
        BrokenPipeError: the reader is gone.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[: 1 << 20]) :]


def read_one(fd: int) -> tuple[dict[str, Any], bytes] | None:
    """The next message, blocking; None when the writer is gone."""
    prefix = _read_exactly(fd, _PREFIX.size)
    if prefix is None:
        return None
    header_bytes, body_bytes = _PREFIX.unpack(prefix)
    header, body = _read_exactly(fd, header_bytes), _read_exactly(fd, body_bytes)
    if header is None or body is None:
        return None
    return json.loads(header), body


def _read_exactly(fd: int, size: int) -> bytes | None:
    out = bytearray()
    while len(out) < size:
        part = os.read(fd, min(size - len(out), 1 << 20))
        if not part:
            return None
        out += part
    return bytes(out)


class Incoming:
    """Messages put together from what arrives in parts."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The messages that `data` completes."""
        self._buffer += data
        while len(self._buffer) >= _PREFIX.size:
            header_bytes, body_bytes = _PREFIX.unpack_from(self._buffer)
            end = _PREFIX.size + header_bytes + body_bytes
            if len(self._buffer) < end:
                return
            header = bytes(self._buffer[_PREFIX.size : _PREFIX.size + header_bytes])
            body = bytes(self._buffer[_PREFIX.size + header_bytes : end])
            del self._buffer[:end]
            yield json.loads(header), body
