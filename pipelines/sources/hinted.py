"""The part of a listing that hints name: for sources that cannot look at single documents for less than a listing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.addresses.uris import below
from pipelines.sources.base import Hint, Listing


def hinted_part(listing: Listing, hints: Sequence[Hint]) -> Listing:
    """Items that a hint names, or that lie below one for a subtree; problems that concern any of these."""
    folders = {hint.uri.rstrip("/") for hint in hints if hint.subtree}
    if "" in folders:
        return listing
    exact = {hint.uri for hint in hints}
    wanted = pc.is_in(listing.items["uri"], value_set=pa.array(sorted(exact), pa.string()))
    for folder in sorted(folders):
        wanted = pc.or_(wanted, pc.starts_with(listing.items["uri"], folder + "/"))
    problems = tuple(p for p in listing.problems if p.subtree or p.uri in exact or below(p.uri, folders))
    return replace(listing, items=listing.items.filter(wanted), problems=problems)
