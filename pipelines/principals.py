"""Who somebody is: principals, sets of them, and tenants. Who may read what is `governance`'s.

A principal is `user:NAME`, `group:NAME` or `role:NAME`, a name whatever a directory has: `Domain Users`, `R&D, Berlin`.
Names are held in Unicode's normalisation form C, so that the same name typed on two machines is one; apart from that
they are compared character by character, unless the configuration says that its directory does not tell upper case
from lower.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from pipelines.errors import AccessError

Principals = tuple[str, ...]
"""One access set: sorted, without duplicates."""

DEFAULT_TENANT = "default"

_KINDS = ("user", "group", "role")
# Control characters, halves of surrogate pairs, line and paragraph separators: no directory has them in a name, and in
# a message or a table they would hide what a name is.
_NEVER = frozenset({"Cc", "Cs", "Zl", "Zp"})
_MOST_CHARACTERS = 512


def parse_principal(text: str, *, fold_case: bool = False) -> str:
    """The principal in the form in which it is stored and compared: `user:NAME`, `group:NAME` or `role:NAME`.

    Args:
        text: as somebody wrote it.
        fold_case: names that differ only in case are one (Unicode's canonical caseless matching, definition D145).

    Raises:
        AccessError: it is of another kind; or its name is empty, longer than 512 characters, begins or ends with white
            space, or has control characters or line breaks.
    """
    kind, colon, name = text.partition(":")
    problem = f"it is of no kind, found {kind[:20]!r}" if not colon or kind not in _KINDS else _problem(name)
    if problem:
        raise AccessError(f"{text[:80]!r} is no principal: {problem}; write user:NAME, group:NAME or role:NAME")
    return f"{kind}:{_folded(name) if fold_case else unicodedata.normalize('NFC', name)}"


def access_set(principals: Iterable[str], *, fold_case: bool = False) -> Principals:
    """The principals of one access set, checked.

    Raises:
        AccessError: one of them is malformed.
    """
    return tuple(sorted({parse_principal(principal, fold_case=fold_case) for principal in principals}))


def parse_tenant(text: str) -> str:
    """The name of a tenant as it is stored and compared: in normalisation form C, always exactly.

    Raises:
        AccessError: it is empty, too long, begins or ends with white space, or has control characters.
    """
    problem = _problem(text)
    if problem:
        raise AccessError(f"{text[:80]!r} is no name of a tenant: {problem}; write the name that its sources have")
    return unicodedata.normalize("NFC", text)


def _problem(name: str) -> str:
    """Why this cannot be a name; empty when it can."""
    if not name:
        return "the name is empty"
    if name != name.strip():
        return "the name begins or ends with white space"
    if len(name) > _MOST_CHARACTERS:
        return f"the name has {len(name)} characters, more than {_MOST_CHARACTERS}"
    if any(unicodedata.category(character) in _NEVER for character in name):
        return "the name has control characters or line breaks"
    return ""


def _folded(name: str) -> str:
    """Equal for names that differ only in case or normalisation form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
