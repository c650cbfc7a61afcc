"""Where an index is reached, and what opens it; and the secret of an installation's own Milvus Lite process."""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import IndexUnavailable
from pipelines.identity import fingerprint

_FILE = "secret"
_BYTES = 32
_USER = "lockstep"  # Milvus' tokens are USER:PASSWORD


@dataclass(frozen=True, slots=True)
class Address:
    """A Milvus server or a Milvus Lite process. The token is never shown."""

    uri: str
    token: str | None = field(default=None, repr=False)


def lite_token(folder: Path) -> str:
    """What opens the Milvus Lite process of an index folder: made at the first call, readable by its owner alone.

    Raises:
        IndexUnavailable: the file cannot be read or written, or others can read it and that cannot be changed.
    """
    path = folder / _FILE
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        value = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise IndexUnavailable(
            f"reading the secret of Milvus Lite, {path}: {error}; run the command as the user who owns that folder"
        ) from error
    if len(value) < _BYTES:
        raise IndexUnavailable(
            f"the secret of Milvus Lite, {path}, is damaged: {len(value)} characters, at least {_BYTES} are expected; "
            "delete that file and run the command again, which makes another one and restarts the process"
        )
    return f"{_USER}:{value}"


def token_mark(token: str) -> str:
    """Stands for a token where others may read: it tells whether two are the same, and nothing else."""
    return fingerprint("lite token", {"token": token})


def same_token(given: str, expected: str) -> bool:
    """Compared in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _make(path: Path) -> None:
    """In one step, so that of two commands at once one makes it and both read the same."""
    scratch = path.with_name(f"{_FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_urlsafe(_BYTES))
        try:
            os.link(scratch, path)
        except FileExistsError:
            return
    finally:
        scratch.unlink()
