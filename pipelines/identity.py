"""Every key that Lockstep computes, one function each. Nothing else in the project hashes.

All hashes are SHA-256. Multi-part keys prefix each part with its length, so that no two different lists of
parts share an encoding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

_SHORT = 32  # hex digits: 128 bits, enough that no collision is expected below 10^18 keys
DIGEST_MODULUS = 1 << 256


def _encode(parts: Iterable[str | bytes]) -> bytes:
    out = bytearray()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        out += len(raw).to_bytes(8, "big")
        out += raw
    return bytes(out)


def _short(*parts: str | bytes) -> str:
    return hashlib.sha256(_encode(parts)).hexdigest()[:_SHORT]


def fingerprint(kind: str, inputs: Mapping[str, object]) -> str:
    """Fingerprint of everything that changes the behaviour of a stage: 32 hex digits.

    Args:
        kind: what is fingerprinted ("parser", "chunker", "model", ...).
        inputs: name to value; values are compared by `repr`, so use plain scalars, strings and tuples.
    """
    parts = [kind]
    for name in sorted(inputs):
        parts += [name, repr(inputs[name])]
    return _short(*parts)


def content_hash(content: bytes) -> str:
    """Identity of a document's bytes: 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def text_hash(text: str) -> str:
    """Identity of one text exactly as it is encoded: 64 hex digits of its UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def doc_id(source: str, uri: str) -> str:
    """Identity of a document: its source's name and its address inside that source. 32 hex digits."""
    return _short("doc", source, uri)


def acl_id(tenant: str, principals: Sequence[str]) -> int:
    """Identity of an access set, from its tenant and its sorted principals: a positive integer of 60 bits.

    Equal principals of two tenants are two sets: an id alone never leads from one tenant to another.
    """
    return 1 + int(_short("acl", tenant, *principals)[:15], 16)


def chunk_id(doc: str, text: str, occurrence: int) -> str:
    """Identity of an index row: document, text hash, and how often that text came before in the document.

    The position is left out on purpose: a paragraph inserted above leaves the other rows alone.
    """
    return _short("chunk", doc, text, str(occurrence))


def row_hash(fields: Sequence[str]) -> str:
    """Hash of everything an index row stores but its vectors' bits: 64 hex digits."""
    return hashlib.sha256(_encode(fields)).hexdigest()


def digest(row_hashes: Iterable[str], start: str = "0" * 64, *, subtract: bool = False) -> str:
    """Order-independent digest of a multiset of rows: the sum of their hashes modulo 2^256, 64 hex digits.

    A digest can be carried forward: add the rows that came and subtract the rows that went. (An incremental
    multiset hash of the additive kind: Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing:
    Incrementality at Reduced Cost", EUROCRYPT 1997. It detects accidents; it is no defence against someone
    who may choose the rows.)
    """
    total = int(start, 16)
    sign = -1 if subtract else 1
    for value in row_hashes:
        total += sign * int(value, 16)
    return f"{total % DIGEST_MODULUS:064x}"
