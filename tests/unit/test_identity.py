import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import identity

HASHES = st.lists(st.binary(max_size=8).map(lambda raw: identity.content_hash(raw)), max_size=20)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("", "abc"), ("abc", "")),
        (("a", ""), ("a",)),
        (("a\x00b",), ("a", "b")),
    ],
)
def test_parts_that_read_the_same_when_joined_have_different_keys(one, other):
    assert identity.row_hash(one) != identity.row_hash(other)


def test_a_document_is_known_by_source_and_uri_together():
    assert identity.doc_id("a", "bc") != identity.doc_id("ab", "c")
    assert identity.doc_id("a", "bc") == identity.doc_id("a", "bc")
    assert len(identity.doc_id("a", "b")) == 32


def test_the_kinds_of_short_keys_do_not_meet():
    assert identity.doc_id("x", "y") != identity.chunk_id("x", "y", 0)


def test_a_repeated_text_of_one_document_has_a_key_for_each_occurrence():
    assert len({identity.chunk_id("d", "t", number) for number in range(12)}) == 12


def test_a_fingerprint_does_not_depend_on_the_order_of_its_inputs():
    assert identity.fingerprint("k", {"a": 1, "b": "x"}) == identity.fingerprint("k", {"b": "x", "a": 1})


@pytest.mark.parametrize("other", [{"a": "1"}, {"a": 2}, {"b": 1}, {"a": 1, "b": None}, {}])
def test_a_fingerprint_changes_with_every_name_type_and_value(other):
    assert identity.fingerprint("k", {"a": 1}) != identity.fingerprint("k", other)


def test_half_a_surrogate_pair_can_be_hashed():
    assert identity.text_hash("\ud800") != identity.text_hash("\ud801")


@given(HASHES, st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_the_order_of_rows(rows: list[str], shuffler: random.Random):
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert identity.digest(rows) == identity.digest(shuffled)


@given(HASHES, HASHES)
def test_rows_added_and_taken_away_again_leave_the_digest(kept: list[str], passing: list[str]):
    start = identity.digest(kept)
    grown = identity.digest(passing, start)
    assert grown == identity.digest([*kept, *passing])
    assert identity.digest(passing, grown, subtract=True) == start


def test_a_row_that_is_there_twice_counts_twice():
    row = identity.content_hash(b"row")
    assert len({identity.digest([]), identity.digest([row]), identity.digest([row, row])}) == 3


def test_taking_a_row_from_nothing_stays_within_64_digits():
    row = identity.content_hash(b"row")
    below = identity.digest([row], subtract=True)
    assert len(below) == 64
    assert identity.digest([row], below) == "0" * 64
