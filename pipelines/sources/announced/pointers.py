"""Which addresses an event may point to: only those below a root that the configuration names, compared as written.

Everything is closed until a root opens it, and whatever could mean two things is refused. Reading what a pointer names
is `pointed`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("https", "http", "s3", "file")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:.]+\]")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\\u2028\u2029\ud800-\udfff]")
_UNSAFE_IN_KEYS = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029\ud800-\udfff]")


class PointerRefused(ValueError):
    """An address that may not be read, or that can be understood in two ways."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address in its one spelling. `place`: host and port, or bucket; `path` starts with a slash."""

    scheme: str
    place: str
    path: str
    query: str = ""

    @property
    def url(self) -> str:
        """As text."""
        return f"{self.scheme}://{self.place}{self.path}" + (f"?{self.query}" if self.query else "")


def allowed_url(url: str, roots: Iterable[str]) -> str:
    """The address in its one spelling, if it lies below one of the roots.

    Raises:
        PointerRefused: it does not, there are no roots, or it is no plain address.
    """
    address = parse_address(url)
    for root in map(parse_address, roots):
        below = address.path.startswith(root.path.rstrip("/") + "/") and address.path != root.path
        if (address.scheme, address.place) == (root.scheme, root.place) and below:
            return address.url
    raise PointerRefused(
        f"{_shown(url)} lies below no address that `pointer_roots` of this source names; if "
        "content may be fetched from there, add its folder"
    )


def normal_root(root: str) -> str:
    """A root of the configuration in its one spelling, with a slash at the end.

    Raises:
        PointerRefused: it is no plain address, or names more than a place and a folder.
    """
    address = parse_address(root)
    if address.query:
        raise PointerRefused(f"{_shown(root)} has a query; name a folder")
    if address.scheme == "file" and address.path.strip("/") == "":
        raise PointerRefused("file:/// opens the whole machine; name a folder")
    return address.url.rstrip("/") + "/"


def parse_address(url: str) -> Address:
    """The parts of an http, https, s3 or file address.

    Raises:
        PointerRefused: it is of another scheme, holds a user, a fragment or a way upwards, or is not well formed.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise PointerRefused(f"{_shown(url)} is of another kind than {', '.join(f'{name}://' for name in _SCHEMES)}")
    if scheme.lower() == "s3":
        return _s3(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise PointerRefused(f"{_shown(url)} is no address: {error}") from None
    if _UNSAFE.search(url):
        raise PointerRefused(f"{_shown(url)} holds spaces, control characters or backslashes; percent-encode them")
    if "@" in parts.netloc:
        raise PointerRefused(f"{_shown(url)} holds a user; credentials do not belong into events")
    if "#" in url:
        raise PointerRefused(f"{_shown(url)} holds '#'; write %23 for the character, or leave the part out")
    _climbs(url, _decoded(url, parts.path))
    if parts.scheme == "file":
        return _file(url, parts)
    host = (parts.hostname or "").lower()
    place = f"[{host}]" if ":" in host else host
    if not _HOST.fullmatch(place):
        raise PointerRefused(f"{_shown(url)} has no plain host name (ASCII, without a dot at its end)")
    if port is not None and port != _PORTS[parts.scheme]:
        place = f"{place}:{port}"
    return Address(parts.scheme, place, _escaped(parts.path or "/"), parts.query)


def file_path(address: Address) -> str:
    """The path that a file address means."""
    return unquote(address.path)


def _file(url: str, parts: SplitResult) -> Address:
    if parts.netloc not in ("", "localhost"):
        raise PointerRefused(f"{_shown(url)} names a host; write file:///folder/file")
    if parts.query or "?" in url:
        raise PointerRefused(f"{_shown(url)} holds '?'; write %3F for the character")
    return Address("file", "", _escaped(parts.path))


def _s3(url: str) -> Address:
    """Keys are literal: no percent-encoding, and '?' and '#' belong to them."""
    if _UNSAFE_IN_KEYS.search(url):
        raise PointerRefused(f"{_shown(url)} holds control characters or backslashes")
    bucket, slash, key = url.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise PointerRefused(f"{_shown(url)} names no bucket; write s3://bucket/key")
    _climbs(url, key)
    return Address("s3", bucket, slash + key or "/")


def _decoded(url: str, path: str) -> str:
    """The path without percent-encoding; encoded slashes, and what is encoded twice, are refused."""
    text = unquote(path, errors="surrogateescape")
    escapes = {path[at + 1 : at + 3].lower() for at, character in enumerate(path) if character == "%"}
    if escapes & {"2f", "5c", "00"} or any(not re.fullmatch("[0-9a-f]{2}", escape) for escape in escapes):
        raise PointerRefused(f"{_shown(url)} holds an encoded slash, or a '%' that starts no code")
    if unquote(text, errors="surrogateescape") != text:
        raise PointerRefused(f"{_shown(url)} is percent-encoded twice")
    return text


def _climbs(url: str, path: str) -> None:
    names = path.split("/")
    if any(name in (".", "..") for name in names) or "" in names[1:-1]:
        raise PointerRefused(f"{_shown(url)} holds '.', '..' or an empty name; write the way to it plainly")


_PLAIN = re.compile(r"%[0-9A-Fa-f]{2}")


def _escaped(path: str) -> str:
    """Percent-encoded characters that need no code are written plainly, the codes of others in capitals."""

    def one(match: re.Match[str]) -> str:
        character = chr(int(match.group()[1:], 16))
        plain = character.isascii() and (character.isalnum() or character in "-._~")
        return character if plain else match.group().upper()

    return _PLAIN.sub(one, path)


def _shown(url: str) -> str:
    """Without what may be a secret: user and query; not longer than a line."""
    shown = re.sub(r"//[^/@]*@", "//...@", url.partition("?")[0])
    return repr(shown if len(shown) <= 200 else shown[:200] + "...")
