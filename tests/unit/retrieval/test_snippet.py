"""Snippets: the passage that answers, and nothing too long."""

from __future__ import annotations

from pipelines.retrieval.snippet import snippet

BODY = (
    "Daily allowance for meals\n\nYou keep no receipts.\n"
    "The daily allowance for meals is 46 euros.\nBreakfast counts for a fifth."
)


def test_the_sentence_that_shares_most_terms_comes_first_and_not_the_heading() -> None:
    assert snippet(BODY, "what is the daily allowance?").startswith("The daily allowance for meals is 46 euros.")


def test_without_a_shared_term_the_beginning_is_shown() -> None:
    assert snippet(BODY, "elephants").startswith("Daily allowance for meals You keep no receipts.")


def test_a_long_passage_is_cut_at_the_width() -> None:
    found = snippet("word " * 100, "word", width=40)
    assert len(found) <= 40
    assert found.endswith("...")


def test_an_empty_body_has_an_empty_snippet() -> None:
    assert snippet(" \n ", "anything") == ""
