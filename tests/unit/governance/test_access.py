import datetime

import numpy as np
import pyarrow as pa
import pytest

from pipelines.errors import AccessError, LakeError
from pipelines.governance.access import AclRegistry, SourceLabels, acl_ids_for, readers_for
from pipelines.identity import acl_id
from pipelines.lake.schemas import ACL_SETS
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.section import AccessRule

AT = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)


def rules(*pairs: tuple[str, tuple[str, ...]]) -> tuple[AccessRule, ...]:
    return tuple(AccessRule(match=match, readers=readers) for match, readers in pairs)


def acl_sets(*rows: tuple[int, list[str]]) -> pa.Table:
    return tenant_sets(*((i, "default", p) for i, p in rows))


def tenant_sets(*rows: tuple[int, str, list[str]]) -> pa.Table:
    columns = ("acl_id", "tenant", "principals")
    return pa.Table.from_pylist(
        [dict(zip(columns, row, strict=True)) | {"created_at": AT} for row in rows], schema=ACL_SETS
    )


def labels(*pairs: tuple[str, tuple[str, ...]], registry: AclRegistry | None = None) -> SourceLabels:
    config = FilesystemSource(name="h", kind="filesystem", path="x", access=rules(*pairs))
    return SourceLabels(config, registry or AclRegistry(acl_sets()))


HANDBOOK = (("hr/**", ("group:hr", "user:ada")), ("**/*.md", ("group:staff",)))


@pytest.mark.parametrize(
    ("uri", "readers"),
    [
        ("hr/a.md", ("group:hr", "user:ada")),
        ("hr/.hidden/a", ("group:hr", "user:ada")),
        ("it/a.md", ("group:staff",)),
        ("a.md", ("group:staff",)),
        ("it/a.txt", ("role:admin",)),
        ("HR/a.txt", ("role:admin",)),
        ("hr", ("role:admin",)),
    ],
)
def test_the_first_rule_that_matches_decides_and_no_match_leaves_the_admin_alone(uri, readers):
    assert readers_for(rules(*HANDBOOK), uri) == readers


def test_without_rules_only_the_admin_reads():
    assert readers_for((), "a") == ("role:admin",)


def test_readers_are_sorted_and_named_once():
    assert readers_for(rules(("**", ("user:b", "group:a", "user:b"))), "a") == ("group:a", "user:b")


def test_a_rule_is_taken_literally_and_gives_the_admin_nothing():
    assert "role:admin" not in readers_for(rules(("**", ("group:staff",))), "a")
    assert readers_for(rules(("**", ())), "a") == ()


def test_what_the_source_reports_counts_where_no_rule_matches():
    pairs = rules(("hr/**", ("group:hr",)))
    assert readers_for(pairs, "it/a", ["user:b", "user:a"]) == ("user:a", "user:b")
    assert readers_for(pairs, "hr/a", ["user:a"]) == ("group:hr",)
    assert readers_for(pairs, "it/a", []) == ()
    with pytest.raises(AccessError, match="everyone"):
        readers_for(pairs, "it/a", ["everyone"])


def test_a_rule_with_an_impossible_pattern_is_refused():
    rule = AccessRule.model_construct(match="hr/", readers=("group:hr",))
    with pytest.raises(AccessError, match="ends with '/'"):
        readers_for((rule,), "hr/a")


def test_a_source_with_a_malformed_rule_is_named():
    rule = AccessRule.model_construct(match="**", readers=("team:hr",))
    config = FilesystemSource.model_construct(name="h", access=(rule,), tenant="t", classification="c")
    with pytest.raises(AccessError, match=r"source 'h'.*team:hr"):
        SourceLabels(config, AclRegistry(acl_sets()))


def test_known_sets_keep_their_ids_and_new_ones_get_one_of_their_own():
    registry = AclRegistry(acl_sets((1, ["group:staff"]), (7, ["group:hr"])))
    ids = registry.ids_for([("user:b",), ("group:hr",), ("group:a", "user:a")], "default")
    two, one = acl_id("default", ("group:a", "user:a")), acl_id("default", ("user:b",))
    assert ids == {("group:hr",): 7, ("group:a", "user:a"): two, ("user:b",): one}
    new = registry.new_rows(AT)
    assert new.schema == ACL_SETS
    assert new.to_pylist() == [
        {"acl_id": two, "tenant": "default", "principals": ["group:a", "user:a"], "created_at": AT},
        {"acl_id": one, "tenant": "default", "principals": ["user:b"], "created_at": AT},
    ]


def test_ids_do_not_depend_on_the_order_of_the_documents():
    one, other = AclRegistry(acl_sets()), AclRegistry(acl_sets())
    sets = [("user:b",), ("user:a",), (), ("group:c", "user:a")]
    assert one.ids_for(sets, "default") == other.ids_for(reversed(sets), "default")


def test_asking_again_adds_nothing():
    registry = AclRegistry(acl_sets((1, ["group:staff"])))
    registry.ids_for([("group:staff",)], "default")
    assert len(registry.new_rows(AT)) == 0
    assert AclRegistry(acl_sets()).new_rows(AT).schema == ACL_SETS


def test_the_new_rows_continue_a_registry_of_the_next_run():
    first = AclRegistry(acl_sets())
    ids = first.ids_for([("user:a",), ("user:b",)], "default")
    second = AclRegistry(first.new_rows(AT))
    assert second.ids_for([("user:b",), ("user:a",)], "default") == ids


def test_an_id_that_stands_for_two_sets_is_an_error():
    with pytest.raises(LakeError, match="id 1 stands for two sets"):
        AclRegistry(acl_sets((1, ["group:a"]), (1, ["group:b"])))


def test_two_ids_of_one_set_are_both_searched_and_the_lower_is_given():
    table = acl_sets((5, ["group:a"]), (2, ["group:a"]))
    assert AclRegistry(table).ids_for([("group:a",)], "default") == {("group:a",): 2}
    assert acl_ids_for(["group:a"], table) == [2, 5]


def test_a_caller_gets_every_set_that_names_one_of_his_principals():
    table = acl_sets(
        (1, ["group:staff"]), (2, ["group:hr", "user:ada"]), (3, ["role:admin"]), (4, []), (5, ["user:ada"])
    )
    assert acl_ids_for(["user:ada"], table) == [2, 5]
    assert acl_ids_for(["group:staff", "group:hr"], table) == [1, 2]
    assert acl_ids_for(["role:admin"], table) == [3]
    assert acl_ids_for(["user:bob"], table) == []
    assert acl_ids_for([], table) == []
    assert acl_ids_for(["user:ada"], table.slice(2)) == [5]
    assert acl_ids_for(["user:ada"], pa.concat_tables([table.slice(0, 2), table.slice(2)])) == [2, 5]
    assert acl_ids_for(["user:ada"], acl_sets()) == []


def test_a_caller_with_a_malformed_principal_is_refused():
    with pytest.raises(AccessError):
        acl_ids_for(["user:ada", "ada"], acl_sets((1, ["user:ada"])))


def test_many_uris_get_the_ids_of_their_readers():
    registry = AclRegistry(acl_sets((1, ["group:staff"])))
    found = labels(*HANDBOOK, registry=registry)
    ids = found.acl_ids(pa.chunked_array([["hr/a", "a.md"], ["b.txt", "hr/b"]]))
    assert ids.dtype == np.int64
    assert ids.tolist() == [acl_id("default", ("group:hr", "user:ada")), 1, acl_id("default", ("role:admin",)), ids[0]]
    assert registry.new_rows(AT)["principals"].to_pylist() == [["group:hr", "user:ada"], ["role:admin"]]


def test_no_uris_need_no_ids():
    registry = AclRegistry(acl_sets())
    assert len(labels(*HANDBOOK, registry=registry).acl_ids(pa.chunked_array([], pa.string()))) == 0
    assert len(registry.new_rows(AT)) == 0


def test_reported_readers_fill_what_no_rule_covers():
    uris = pa.chunked_array([["hr/a", "b", "c", "d"]])
    reported = pa.chunked_array([[["user:x"], ["user:x"], None, ["user:x"]]], pa.list_(pa.string()))
    registry = AclRegistry(acl_sets((1, ["group:hr"]), (2, ["role:admin"]), (3, ["user:x"])))
    assert labels(("hr/**", ("group:hr",)), registry=registry).acl_ids(uris, reported).tolist() == [1, 3, 2, 3]


def test_a_set_that_was_lost_from_the_table_gets_its_id_again() -> None:
    first = AclRegistry(acl_sets()).ids_for([("user:a",), ("user:b",)], "default")
    assert AclRegistry(acl_sets()).ids_for([("user:b",)], "default") == {("user:b",): first["user:b",]}


def test_equal_principals_of_two_tenants_are_two_sets() -> None:
    registry = AclRegistry(acl_sets())
    ours, theirs = (registry.ids_for([("group:staff",)], tenant)["group:staff",] for tenant in ("alpha", "beta"))
    assert ours != theirs
    assert registry.of(theirs) == ("beta", ("group:staff",))
    table = registry.new_rows(AT)
    assert acl_ids_for(["group:staff"], table, tenant="alpha") == [ours]
    assert acl_ids_for(["group:staff"], table) == []
    assert acl_ids_for(["role:admin"], table, tenant="beta") == []


def test_what_no_rule_covers_is_for_the_admins_of_its_own_tenant() -> None:
    registry = AclRegistry(acl_sets())
    for tenant in ("alpha", "beta"):
        section = FilesystemSource(name=tenant, kind="filesystem", path="x", tenant=tenant)
        SourceLabels(section, registry).acl_ids(pa.chunked_array([["a"]]))
    table = registry.new_rows(AT)
    mine = acl_ids_for(["role:admin"], table, tenant="alpha")
    assert len(mine) == 1
    assert registry.of(mine[0]) == ("alpha", ("role:admin",))


def test_an_id_of_another_tenant_is_another_set() -> None:
    with pytest.raises(LakeError, match=r"id 1 stands for two sets.*'alpha'.*'beta'"):
        AclRegistry(tenant_sets((1, "alpha", ["group:a"]), (1, "beta", ["group:a"])))


@pytest.mark.parametrize("written", ["group:B\u00fcro", "group:Bu\u0308ro"], ids=["composed", "decomposed"])
def test_names_that_differ_only_in_form_are_one_in_rules_reports_and_questions(written: str) -> None:
    registry = AclRegistry(acl_sets())
    found = labels(("a", (written,)), registry=registry)
    uris, reported = pa.chunked_array([["a", "b"]]), pa.chunked_array([[None, [written]]], pa.list_(pa.string()))
    first, second = found.acl_ids(uris, reported).tolist()
    assert first == second
    for asking in ("group:B\u00fcro", "group:Bu\u0308ro"):
        assert acl_ids_for([asking], registry.new_rows(AT)) == [first]


def test_case_is_folded_where_the_directory_does_and_only_there() -> None:
    uris = pa.chunked_array([["a"]])
    for fold_case, expected in ((True, 1), (False, 0)):
        registry = AclRegistry(acl_sets())
        config = FilesystemSource(name="h", kind="filesystem", path="x", access=rules(("**", ("group:Domain Users",))))
        SourceLabels(config, registry, fold_case=fold_case).acl_ids(uris)
        table = registry.new_rows(AT)
        assert len(acl_ids_for(["group:DOMAIN USERS"], table, fold_case=fold_case)) == expected
        assert len(acl_ids_for(["group:Domain Users"], table, fold_case=fold_case)) == 1
