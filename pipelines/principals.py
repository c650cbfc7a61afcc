"""Who somebody is: `user:NAME`, `group:NAME`, `role:NAME`, and sets of these. Who may read what is `governance`'s."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipelines.errors import AccessError

Principals = tuple[str, ...]
"""One access set: sorted, without duplicates."""

_PRINCIPAL = re.compile(r"(user|group|role):[^\s,]+")


def parse_principal(text: str) -> str:
    """The principal itself: `user:NAME`, `group:NAME` or `role:NAME`, compared letter by letter.

    Raises:
        AccessError: it is of another kind, or the name is empty or holds white space or a comma.
    """
    if not _PRINCIPAL.fullmatch(text):
        raise AccessError(
            f"{text!r} is no principal; write user:NAME, group:NAME or role:NAME, the name without spaces and commas"
        )
    return text


def access_set(principals: Iterable[str]) -> Principals:
    """The principals of one access set, checked.

    Raises:
        AccessError: one of them is malformed.
    """
    return tuple(sorted({parse_principal(principal) for principal in principals}))
