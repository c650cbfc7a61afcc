"""Addresses of documents: reversible, printable and valid UTF-8, whatever the source calls its documents.

Only the mapping between a source's own names and uris belongs here; which uris are wanted is decided in `globs`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from urllib.parse import unquote_to_bytes

# '%' itself, C0 and C1 control characters, DEL, line separators, and the surrogates that stand for undecodable bytes.
_ESCAPED = re.compile("[%\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PERCENT = re.compile("%(?:25)+")


def encode_uri(name: bytes | str) -> str:
    """The uri of a path or record id: '%', control characters and bytes that are not UTF-8 percent-encoded.

    `decode_uri` gives the bytes back, so two different names never share a uri.
    """
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return _ESCAPED.sub(_escape, text) if _ESCAPED.search(text) else text


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match.group().encode("utf-8", "surrogateescape"))


def decode_uri(uri: str) -> bytes:
    """The source's own name as bytes (UTF-8 where it was text)."""
    return unquote_to_bytes(uri)


def rule_text(uri: str) -> str:
    """What a pattern is compared with: the uri with a plain '%', in Unicode's composed form (NFC).

    A person writes `100%/**` as well as `100%25/**`, and an editor's "é" may be one character or two; a rule that
    silently missed its folder would hand it to the next, wider rule. So patterns pass through here too.
    """
    if "%25" in uri:
        uri = _PERCENT.sub("%", uri)
    return uri if uri.isascii() else unicodedata.normalize("NFC", uri)


_ODD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")


def encode_key(key: str) -> str:
    """The uri of a key of a store without folders, where "a//b", "./a" and "../a" are ordinary names.

    As `encode_uri`; besides, what would be an empty, "." or ".." segment is percent-encoded, so that patterns see
    ordinary segments: `a//b` is `a/%2Fb`, `../a` is `%2E%2E/a`. A slash at the end stays. `decode_uri` gives the key
    back.
    """
    uri = encode_uri(key)
    if not _ODD_SEGMENT.search(uri):
        return uri
    first, *others = uri.split("/")
    parts, previous = [_DOTS.get(first, first)], first
    for segment in others:
        parts += ["/" if previous else "%2F", _DOTS.get(segment, segment)]
        previous = segment
    return "".join(parts)


_DOTS = {".": "%2E", "..": "%2E%2E"}


def below(uri: str, folders: Collection[str]) -> bool:
    """Whether a uri lies in one of these folders, at any depth. Costs its depth, however many folders there are."""
    end = uri.find("/")
    while end >= 0:
        if uri[:end] in folders:
            return True
        end = uri.find("/", end + 1)
    return False
