import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import GuardConfig
from pipelines.errors import MassDeletionRefused
from pipelines.governance.access import AclRegistry, SourceLabels
from pipelines.identity import acl_id
from pipelines.lake.schemas import ACL_SETS, TIMESTAMP
from pipelines.sources.base import ITEMS, Listing, ListingBuilder, Problem, SourceItem
from pipelines.sources.detect import LOOK, RELABELLED, Decision, decide
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.section import AccessRule

OLD = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
MERGED = OLD + datetime.timedelta(days=1)
STAFF = (AccessRule(match="**", readers=("group:staff",)),)
GUARD = GuardConfig(max_deleted_share=0.3, min_documents=20)
PREVIOUS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("modified_at", TIMESTAMP),
        ("content_hash", pa.string()),
        ("quarantined_hash", pa.string()),
        ("acl_id", pa.int64()),
        ("tenant", pa.string()),
        ("classification", pa.string()),
        ("status", pa.string()),
        ("updated_at", TIMESTAMP),
    ]
)


def row(uri: str, **changed) -> dict:
    usual = {
        "doc_id": f"id-{uri}",
        "uri": uri,
        "size_bytes": 10,
        "etag": None,
        "modified_at": OLD,
        "content_hash": f"hash-{uri}",
        "quarantined_hash": None,
        "acl_id": 1,
        "tenant": "default",
        "classification": "internal",
        "status": "active",
        "updated_at": MERGED,
    }
    return {**usual, **changed}


def previous(*rows: dict | str) -> pa.Table:
    return pa.Table.from_pylist([row(r) if isinstance(r, str) else r for r in rows], schema=PREVIOUS)


def item(uri: str, **changed) -> SourceItem:
    return SourceItem(**{"uri": uri, "size_bytes": 10, "modified_at": OLD, **changed})


def listing(*items: SourceItem | str, problems: tuple[Problem, ...] = (), reports_readers: bool = False) -> Listing:
    found = ListingBuilder()
    for one in items:
        found.add(item(one) if isinstance(one, str) else one)
    return Listing(found.table(), problems, reports_readers)


def labels(rules: tuple[AccessRule, ...] = STAFF, **options) -> SourceLabels:
    config = FilesystemSource(name="handbook", kind="filesystem", path="corpus", access=rules, **options)
    known = pa.Table.from_pylist(
        [
            {"acl_id": 1, "tenant": "default", "principals": ["group:staff"], "created_at": OLD},
            {"acl_id": 2, "tenant": "default", "principals": ["group:hr"], "created_at": OLD},
            {"acl_id": 3, "tenant": "default", "principals": ["role:admin"], "created_at": OLD},
        ],
        schema=ACL_SETS,
    )
    return SourceLabels(config, AclRegistry(known))


def run(before: pa.Table, now: Listing, *, said=None, guard: GuardConfig = GUARD, **options) -> Decision:
    return decide(before, now, guard, labels=said or labels(), source="handbook", **options)


def reasons(decision: Decision) -> dict[str, str]:
    return dict(zip(decision.look["uri"].to_pylist(), decision.look["reason"].to_pylist(), strict=True))


def gone(decision: Decision) -> list[str]:
    return decision.deleted["uri"].to_pylist()


def relabelled(decision: Decision) -> dict[str, int]:
    return dict(zip(decision.relabelled["uri"].to_pylist(), decision.relabelled["acl_id"].to_pylist(), strict=True))


def test_nothing_changed_means_nothing_to_do():
    found = run(previous("a", "b"), listing("b", "a"))
    assert (reasons(found), gone(found), relabelled(found)) == ({}, [], {})
    assert (found.unchanged, found.kept) == (2, 0)


def test_nothing_before_and_nothing_now_is_fine():
    found = run(previous(), listing())
    assert (len(found.look), len(found.deleted), found.unchanged) == (0, 0, 0)


def test_new_documents_are_looked_at_with_their_access_set():
    found = run(previous(), listing("a", item("hr/b", metadata={"k": 1})))
    assert found.look.schema == LOOK
    assert found.look.to_pylist()[1] == {
        "uri": "hr/b",
        "size_bytes": 10,
        "etag": None,
        "modified_at": OLD,
        "metadata": '{"k": 1}',
        "acl_id": 1,
        "reason": "new",
        "doc_id": None,
        "content_hash": None,
        "quarantined_hash": None,
    }


@pytest.mark.parametrize(
    ("then", "now", "reason"),
    [
        ({}, {"size_bytes": 11}, "changed"),
        ({}, {"modified_at": OLD + datetime.timedelta(microseconds=1)}, "changed"),
        ({}, {"modified_at": OLD - datetime.timedelta(days=1)}, "changed"),
        ({}, {"modified_at": None}, "changed"),
        ({"modified_at": None}, {}, "changed"),
        ({"modified_at": None}, {"modified_at": None}, "changed"),
        ({}, {"size_bytes": None}, "changed"),
        ({"etag": "x"}, {"etag": "y"}, "changed"),
        ({"etag": "x"}, {"etag": "x"}, None),
        ({"etag": "x"}, {"etag": "x", "modified_at": None, "size_bytes": 3}, None),
        ({"etag": None}, {"etag": "x"}, None),
        ({"etag": "x"}, {"etag": None}, None),
        ({"updated_at": OLD}, {}, "racy"),
        ({"updated_at": OLD - datetime.timedelta(days=1)}, {}, "racy"),
        ({"updated_at": OLD + datetime.timedelta(seconds=1.9)}, {}, "racy"),
        ({"updated_at": OLD + datetime.timedelta(seconds=2)}, {}, None),
        ({"updated_at": OLD, "etag": "x"}, {"etag": "x"}, None),
        ({"updated_at": OLD, "etag": "x"}, {"etag": None}, "racy"),
        ({"status": "deleted"}, {}, "returned"),
        ({"status": "quarantined"}, {}, None),
        ({"status": "quarantined"}, {"size_bytes": 11}, "changed"),
        ({"quarantined_hash": "bad"}, {}, None),
        ({"quarantined_hash": "bad"}, {"size_bytes": 11}, "changed"),
    ],
)
def test_a_document_is_looked_at_when_its_state_may_hide_a_change(then, now, reason):
    found = run(previous(row("a", **then), "b"), listing(item("a", **now), item("b", etag="z")))
    assert reasons(found) == ({"a": reason} if reason else {})
    if reason:
        (look,) = found.look.to_pylist()
        assert (look["doc_id"], look["content_hash"]) == ("id-a", "hash-a")
        assert look["quarantined_hash"] == then.get("quarantined_hash")


def test_a_thorough_look_takes_every_listed_document():
    found = run(previous("a", row("b", etag="x")), listing("a", item("b", etag="x"), "c"), thorough=True)
    assert reasons(found) == {"a": "asked", "b": "asked", "c": "new"}


def test_what_a_complete_listing_does_not_show_is_deleted():
    found = run(previous("a", "b", row("c", status="deleted"), row("d", status="quarantined")), listing("a"))
    assert gone(found) == ["b", "d"]
    assert found.deleted["doc_id"].to_pylist() == ["id-b", "id-d"]


def test_nothing_is_deleted_below_a_folder_that_could_not_be_read():
    unread = Problem("hr", "FolderUnreadable", "", subtree=True)
    found = run(previous("hr", "hr/a", "hr/x/b", "hrx/c", "d/hr/e", "f"), listing("f", problems=(unread,)))
    assert gone(found) == ["hrx/c", "d/hr/e"]
    assert found.kept == 3


def test_nothing_is_deleted_when_the_whole_source_is_in_doubt():
    found = run(previous("a", "b/c"), listing(problems=(Problem("", "BadRecord", "", subtree=True),)))
    assert gone(found) == []
    assert found.kept == 2
    assert run(previous("a", "b"), Listing.unread("host down")).kept == 2


def test_a_document_with_a_problem_of_its_own_keeps_its_last_good_version():
    found = run(previous("a", "b", "c"), listing("c", problems=(Problem("a", "TooLarge", ""),)))
    assert gone(found) == ["b"]
    assert found.kept == 1


def many(number: int) -> list[str]:
    return [f"folder/{n:03d}" for n in range(number)]


def test_a_mass_deletion_is_refused_with_numbers_and_the_way_to_approve_it():
    with pytest.raises(MassDeletionRefused) as caught:
        run(previous(*many(100)), listing(*many(60)))
    message = str(caught.value)
    for part in ("'handbook'", "40 of 100", "40%", "30%", "folder/060", "max_deleted_share", "--approve-deletions"):
        assert part in message
    assert not caught.value.transient


def test_an_approved_mass_deletion_goes_through():
    assert len(gone(run(previous(*many(100)), listing(*many(60)), approve_deletions=True))) == 40
    assert len(gone(run(previous(*many(100)), listing(), approve_deletions=True))) == 100


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [(100, 70, False), (100, 69, True), (20, 13, True), (19, 1, False), (20, 14, False)],
)
def test_the_guard_counts_share_and_size(before, after, refused):
    if refused:
        with pytest.raises(MassDeletionRefused):
            run(previous(*many(before)), listing(*many(after)))
    else:
        assert len(gone(run(previous(*many(before)), listing(*many(after))))) == before - after


@pytest.mark.parametrize("number", [1, 5, 100])
def test_an_emptied_source_of_any_size_is_refused(number):
    with pytest.raises(MassDeletionRefused, match="empty now"):
        run(previous(*many(number)), listing())


def test_a_guard_that_allows_everything_is_taken_at_its_word():
    everything = GuardConfig(max_deleted_share=1.0)
    assert len(gone(run(previous(*many(100)), listing(), guard=everything))) == 100


def test_documents_deleted_before_do_not_count_for_the_guard():
    rows = [row(uri, status="deleted") for uri in many(500)]
    with pytest.raises(MassDeletionRefused, match="8 of 20"):
        run(previous(*rows, *(f"x{n}" for n in range(20))), listing(*(f"x{n}" for n in range(12))))


def test_a_change_of_rules_relabels_without_a_look():
    rules = (AccessRule(match="hr/**", readers=("group:hr",)), *STAFF)
    found = run(previous("hr/a", "b"), listing("hr/a", "b"), said=labels(rules))
    assert relabelled(found) == {"hr/a": 2}
    assert found.relabelled.schema == RELABELLED
    assert len(found.look) == 0
    assert found.unchanged == 2


def test_a_change_of_rules_reaches_documents_that_could_not_be_read():
    rules = (AccessRule(match="hr/**", readers=("group:hr",)), *STAFF)
    unread = Problem("hr", "FolderUnreadable", "", subtree=True)
    found = run(previous("hr/a", "b"), listing("b", problems=(unread,)), said=labels(rules))
    assert relabelled(found) == {"hr/a": 2}
    assert relabelled(run(previous("hr/a", "b"), Listing.unread("down"), said=labels(rules))) == {"hr/a": 2}


def test_removed_rules_leave_documents_to_the_admin_alone():
    assert relabelled(run(previous("a"), listing("a"), said=labels(()))) == {"a": 3}


def test_a_changed_document_is_relabelled_too_and_a_deleted_one_is_not():
    rules = (AccessRule(match="**", readers=("group:hr",)),)
    before = previous("a", "b", row("c", status="deleted"))
    found = run(before, listing(item("a", size_bytes=11)), said=labels(rules))
    assert reasons(found) == {"a": "changed"}
    assert relabelled(found) == {"a": 2}


def test_a_new_tenant_or_class_relabels():
    found = run(previous("a"), listing("a"), said=labels(tenant="north"))
    assert found.relabelled.to_pylist() == [
        {
            "doc_id": "id-a",
            "uri": "a",
            "acl_id": acl_id("north", ("group:staff",)),
            "tenant": "north",
            "classification": "internal",
        }
    ]
    assert len(run(previous("a"), listing("a"), said=labels(classification="secret")).relabelled) == 1


def test_what_only_an_unread_source_could_say_about_readers_stays_as_it_was():
    hr_only = (AccessRule(match="hr/**", readers=("group:hr",)),)
    before = previous(row("hr/a"), row("b", acl_id=2), row("c", acl_id=1))
    now = listing(
        item("c", readers=("group:hr",)),
        problems=(Problem("", "SourceUnreadable", "", subtree=True),),
        reports_readers=True,
    )
    assert relabelled(run(before, now, said=labels(hr_only))) == {"hr/a": 2, "c": 2}


def test_chunked_columns_give_the_same_answer():
    before = pa.concat_tables([previous("a"), previous("b", "c")])
    now = Listing(pa.concat_tables([listing("b").items, ITEMS.empty_table(), listing("d", "a").items]))
    found = run(before, now)
    assert (reasons(found), gone(found)) == ({"d": "new"}, ["c"])


URIS = st.sampled_from(["a", "b", "hr", "hr/a", "hr/b", "hr/x/c", "it/a", "it", "hrx/a"])
ETAGS = st.sampled_from([None, "x", "y"])


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(URIS, st.tuples(st.sampled_from(["active", "deleted", "quarantined"]), st.integers(1, 2), ETAGS)),
    st.dictionaries(URIS, st.tuples(st.integers(1, 2), ETAGS)),
    st.lists(st.tuples(st.sampled_from(["", "hr", "it", "a"]), st.booleans()), max_size=2),
)
def test_columns_decide_as_a_loop_over_documents_would(then, now, problems):
    before = previous(*(row(u, status=s, size_bytes=n, etag=e) for u, (s, n, e) in then.items()))
    seen = listing(
        *(item(u, size_bytes=n, etag=e) for u, (n, e) in now.items()),
        problems=tuple(Problem(u, "P", "", subtree=folder or not u) for u, folder in problems),
    )
    found = run(before, seen, approve_deletions=True)

    expected, removed, kept = {}, set(), 0
    for uri, (size, etag) in now.items():
        if uri not in then:
            expected[uri] = "new"
        elif then[uri][0] == "deleted":
            expected[uri] = "returned"
        else:
            _, old_size, old_etag = then[uri]
            if (etag != old_etag) if etag and old_etag else size != old_size:
                expected[uri] = "changed"
    for uri, (status, _, _) in then.items():
        if status == "deleted" or uri in now:
            continue
        parts = uri.split("/")
        above = {"/".join(parts[:n]) for n in range(1, len(parts))}
        if any(p == uri or (folder and p in above) or p == "" for p, folder in problems):
            kept += 1
        else:
            removed.add(uri)
    assert reasons(found) == expected
    assert set(gone(found)) == removed
    assert (found.kept, found.unchanged) == (kept, len(now) - len(expected))


def test_a_hundred_thousand_documents_in_another_order_are_told_apart():
    number = 100_000
    rng = np.random.default_rng(7)
    uris = [f"d{n % 50}/{n:06d}.md" for n in range(number)]
    columns = {
        "doc_id": uris,
        "uri": uris,
        "size_bytes": np.full(number, 10),
        "etag": pa.nulls(number, pa.string()),
        "modified_at": pa.repeat(pa.scalar(OLD, TIMESTAMP), number),
        "content_hash": uris,
        "quarantined_hash": pa.nulls(number, pa.string()),
        "acl_id": np.ones(number, np.int64),
        "tenant": pa.repeat("default", number),
        "classification": pa.repeat("internal", number),
        "status": pa.repeat("active", number),
        "updated_at": pa.repeat(pa.scalar(MERGED, TIMESTAMP), number),
    }
    before = pa.table(columns, schema=PREVIOUS)
    order = rng.permutation(number)
    items = before.select(["uri", "size_bytes", "etag", "modified_at"]).take(pa.array(order[:-500]))
    sizes = items["size_bytes"].to_numpy().copy()
    sizes[:300] += 1
    items = items.set_column(1, "size_bytes", pa.array(sizes))
    items = items.append_column("readers", pa.nulls(len(items), pa.list_(pa.string())))
    items = items.append_column("metadata", pa.nulls(len(items), pa.string())).cast(ITEMS)
    found = run(before, Listing(items))
    assert set(reasons(found)) == {uris[n] for n in order[:300]}
    assert set(gone(found)) == {uris[n] for n in order[-500:]}
    assert len(found.relabelled) == 0
