from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.parsing.dates import iso, iso_from_pdf
from pipelines.parsing.decoding import decode
from pipelines.parsing.normalise import clean, flow, hyphenated_words, join_lines, one_line, preformatted
from pipelines.parsing.tables import Cell, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301te\u0301", "été"),
        ("a\x00b\x07c", "abc"),
        ("soft\u00adhyphen", "softhyphen"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("line\r\nline\rline\u2028line", "line\nline\nline\nline"),
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
    ],
)
def test_clean_text_has_no_control_characters_and_is_composed(text, expected):
    assert clean(text) == expected


@given(st.text())
def test_cleaning_twice_changes_nothing_and_can_be_stored(text):
    for function in (clean, flow, one_line, preformatted):
        once = function(text)
        assert function(once) == once
        once.encode("utf-8")


def test_running_text_keeps_one_blank_line_and_code_keeps_its_indentation():
    assert flow("  a \t b \n\n\n\n c  ") == "a b\n\nc"
    assert preformatted("\n\n  if x:\n\ty  \n\n") == "  if x:\n\ty"
    assert one_line(" a\n b ") == "a b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("an exam-\nple of it", "an example of it"),
        ("the well-\nknown and well-known", "the well-known and well-known"),
        ("in 1914-\nand later", "in 1914-and later"),
        ("New-\nYork", "New- York"),
        ("hard\nwrapped\nlines", "hard wrapped lines"),
        ("exam\ufffe\nple", "example"),
        ("exam\u00ad\nple", "example"),
    ],
)
def test_words_broken_at_line_ends_are_mended(text, expected):
    assert join_lines(text, hyphenated_words(text)) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_text_is_decoded_whatever_its_encoding(encoding):
    text = "Größe und Länge, façade, naïve. " * 10
    assert decode(text.encode(encoding)) == text


def test_a_declared_charset_is_used_where_the_bytes_are_not_utf_8():
    assert decode("привет мир".encode("koi8-r"), declared="koi8-r") == "привет мир"
    assert decode("ä".encode() * 3, declared="latin-1") == "äää"
    assert decode(b"\xe4\xf6", declared="no-such-charset")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-03-01", "2024-03-01"),
        ("2024-03", "2024-03"),
        ("2024-03-01T12:00:00Z", "2024-03-01T12:00:00+00:00"),
        ("2024-03-01T12:00:00+02:00", "2024-03-01T10:00:00+00:00"),
        ("Fri, 01 Mar 2024 12:00:00 +0100", "2024-03-01T11:00:00+00:00"),
        (datetime(2024, 3, 1, tzinfo=UTC), "2024-03-01T00:00:00+00:00"),
        ("last spring", None),
        ("", None),
        (17, None),
    ],
)
def test_dates_become_iso_8601_or_nothing(value, expected):
    assert iso(value) == expected


def test_pdf_dates_are_understood():
    assert iso_from_pdf("D:20240301120000+01'00'") == "2024-03-01T11:00:00+00:00"
    assert iso_from_pdf("D:2024") == "2024-01-01T00:00:00"
    assert iso_from_pdf("D:20249901") is None


def test_a_table_has_a_line_a_row_and_html_with_spans():
    found = table([["Name", "Age"], [Cell("A & B", rows=2), "1"], ["2"], [Cell("all", columns=2)]], header_rows=1)
    assert found.text == "Name | Age\nA & B | 1\nA & B | 2\nall"
    assert found.html == (
        '<table><tr><th>Name</th><th>Age</th></tr><tr><td rowspan="2">A &amp; B</td><td>1</td></tr>'
        '<tr><td>2</td></tr><tr><td colspan="2">all</td></tr></table>'
    )
    assert table([["", " "], []]) is None
