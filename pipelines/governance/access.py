"""Who may read what: the readers of a document by its source's rules, and the ids of access sets, tenant by tenant.

Everything is literal and fails closed. No principal implies another: `role:admin` reads what names it, and what no
rule covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import identity
from pipelines.errors import AccessError, LakeError
from pipelines.lake.schemas import ACL_SETS
from pipelines.principals import DEFAULT_TENANT, Principals, access_set, parse_tenant
from pipelines.sources.addresses.globs import PatternList
from pipelines.sources.section import AccessRule, SourceSection

UNCOVERED: Principals = ("role:admin",)
"""The readers of a document that no rule covers."""

_TenantSet = tuple[str, Principals]
_CHUNK_ROWS = 65_536  # uris that are Python strings at one time


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """Rules with their patterns compiled; made once for one list of rules."""

    patterns: PatternList
    readers: tuple[Principals, ...]
    fold_case: bool

    def readers_of(self, uri: str, reported: Sequence[str] | None) -> Principals:
        """See `readers_for`."""
        first = self.patterns.first(uri)
        return self.readers[first] if first >= 0 else self.reported(reported)

    def reported(self, principals: Sequence[str] | None) -> Principals:
        """The readers of a document that no rule covers, by what its source reports (None: nothing)."""
        return UNCOVERED if principals is None else access_set(principals, fold_case=self.fold_case)


@lru_cache(maxsize=256)
def compile_rules(rules: tuple[AccessRule, ...], *, fold_case: bool = False) -> CompiledRules:
    """The rules, ready for many uris.

    Raises:
        AccessError: a pattern can match nothing, or a reader is malformed.
    """
    try:
        patterns = PatternList.compile([rule.match for rule in rules], hidden=True)
    except ValueError as error:
        raise AccessError(f"access rule: {error}") from error
    readers = tuple(access_set(rule.readers, fold_case=fold_case) for rule in rules)
    return CompiledRules(patterns, readers, fold_case)


def readers_for(
    rules: Sequence[AccessRule], uri: str, reported: Sequence[str] | None = None, *, fold_case: bool = False
) -> Principals:
    """Who may read the document: the readers of the first rule that matches, taken literally.

    Where no rule matches, what the source itself reports; where it reports nothing, `role:admin` alone. A rule with no
    readers hides its documents from everybody.

    Raises:
        AccessError: a rule or a reported principal is malformed.
    """
    return compile_rules(tuple(rules), fold_case=fold_case).readers_of(uri, reported)


class AclRegistry:
    """Ids of access sets, each of one tenant: those of the table, and new ones for sets that it does not hold yet.

    A new id is a hash of tenant and set, so that the same documents have the same ids, rows and digest wherever and in
    whatever order they were indexed.
    """

    def __init__(self, acl_sets: pa.Table) -> None:
        """Start from the table `acl_sets`.

        Raises:
            LakeError: one id stands for two different sets there.
        """
        self._sets: dict[int, _TenantSet] = {}
        columns = (acl_sets[name].to_pylist() for name in ("acl_id", "tenant", "principals"))
        for acl_id, tenant, principals in zip(*columns, strict=True):
            self._hold(acl_id, (tenant, tuple(principals)))
        self._ids: dict[_TenantSet, int] = {}
        for acl_id in sorted(self._sets, reverse=True):
            self._ids[self._sets[acl_id]] = acl_id  # of several ids for one set the lowest is used
        self._new: list[tuple[int, _TenantSet]] = []

    def ids_for(self, sets: Iterable[Principals], tenant: str) -> dict[Principals, int]:
        """The id of each set of one tenant.

        Raises:
            LakeError: a new set has the id of another one.
        """
        wanted = set(sets)
        for principals in sorted(wanted):
            own = (tenant, principals)
            if own not in self._ids:
                acl_id = identity.acl_id(tenant, principals)
                self._hold(acl_id, own)
                self._ids[own] = acl_id
                self._new.append((acl_id, own))
        return {principals: self._ids[tenant, principals] for principals in wanted}

    def of(self, acl_id: int) -> tuple[str, Principals] | None:
        """Tenant and principals of an id; None for one that was never given."""
        return self._sets.get(acl_id)

    def _hold(self, acl_id: int, own: _TenantSet) -> None:
        known = self._sets.setdefault(acl_id, own)
        if known != own:
            told = " and ".join(f"{list(principals)} of tenant {tenant!r}" for tenant, principals in (known, own))
            raise LakeError(
                f"table acl_sets: id {acl_id} stands for two sets, {told}; "
                "nothing can be served safely from it. Restore the table to its version before that"
            )

    def new_rows(self, created_at: datetime) -> pa.Table:
        """The rows to append to `acl_sets` before a document may carry one of the new ids."""
        rows = [
            {"acl_id": acl_id, "tenant": tenant, "principals": list(principals), "created_at": created_at}
            for acl_id, (tenant, principals) in self._new
        ]
        return pa.Table.from_pylist(rows, schema=ACL_SETS)


class SourceLabels:
    """What the configuration of a source, and not its content, says about documents: access set, tenant, class."""

    def __init__(self, config: SourceSection, registry: AclRegistry, *, fold_case: bool = False) -> None:
        """Compile the rules of `config`.

        Raises:
            AccessError: a rule is malformed.
        """
        self.tenant = config.tenant
        self.classification = config.classification
        try:
            self._rules = compile_rules(config.access, fold_case=fold_case)
        except AccessError as error:
            raise AccessError(f"source {config.name!r}: {error}") from error
        self._registry = registry

    def acl_ids(self, uris: pa.ChunkedArray, reported: pa.ChunkedArray | None = None) -> npt.NDArray[np.int64]:
        """The access set of each document: int64, one for each uri.

        Args:
            uris: addresses.
            reported: for each uri the readers that the source reports, or null.

        Raises:
            AccessError: a reported principal is malformed.
        """
        if reported is not None and reported.null_count == len(reported):
            reported = None
        patterns, readers = self._rules.patterns, self._rules.readers
        found = np.empty(len(uris), np.int32)  # position of the rule, and from len(readers) on other sets
        others: dict[Principals, int] = {}
        for start in range(0, len(uris), _CHUNK_ROWS):
            part = [patterns.first(uri) for uri in uris.slice(start, _CHUNK_ROWS).to_pylist()]
            found[start : start + len(part)] = part
        uncovered = np.flatnonzero(found < 0)
        if reported is None:
            found[uncovered] = len(readers)
            others = {UNCOVERED: len(readers)} if len(uncovered) else {}
        else:
            for row in uncovered:
                own = reported[int(row)].as_py()
                principals = self._rules.reported(own)
                found[row] = others.setdefault(principals, len(readers) + len(others))
        sets = [*readers, *others]
        used = np.unique(found)
        ids = self._registry.ids_for((sets[position] for position in used), self.tenant)
        table = np.zeros(len(sets), np.int64)
        for position in used:
            table[position] = ids[sets[position]]
        return table[found]

    def covered(self, uris: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Whether a rule decides about the document, so that what its source reports does not matter."""
        return np.fromiter((self._rules.patterns.matches(uri) for uri in uris.to_pylist()), np.bool_, len(uris))


def acl_ids_for(
    principals: Iterable[str], acl_sets: pa.Table, *, tenant: str = DEFAULT_TENANT, fold_case: bool = False
) -> list[int]:
    """The ids of a tenant's access sets that name at least one of the principals, ascending; none for no principals.

    Raises:
        AccessError: a principal, or the tenant's name, is malformed.
    """
    wanted, tenant = access_set(principals, fold_case=fold_case), parse_tenant(tenant)
    own = acl_sets.filter(pc.equal(acl_sets["tenant"], tenant))
    if not wanted or not len(own):
        return []
    lists = own["principals"].combine_chunks()
    named = pc.is_in(pc.list_flatten(lists), value_set=pa.array(wanted, pa.string()))
    rows = pc.unique(pc.list_parent_indices(lists).filter(named))
    return sorted(set(own["acl_id"].take(rows).to_pylist()))
