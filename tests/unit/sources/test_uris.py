import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.sources.addresses.uris import decode_uri, encode_uri, rule_text


@given(st.binary(max_size=40))
def test_any_bytes_come_back(name: bytes):
    uri = encode_uri(name)
    assert decode_uri(uri) == name
    assert uri.encode("utf-8").decode("utf-8") == uri
    assert uri.isprintable() or not any(ord(character) < 32 for character in uri)


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_two_names_never_share_a_uri(one: bytes, other: bytes):
    assert (encode_uri(one) == encode_uri(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        (b"plain name (1).md", "plain name (1).md"),
        ("Übersicht/日本.txt".encode(), "Übersicht/日本.txt"),
        (b"100%.md", "100%25.md"),
        (b"a\nb\tc", "a%0Ab%09c"),
        (b"Geh\xe4lter", "Geh%E4lter"),
        ("a\u2028b\x85".encode(), "a%E2%80%A8b%C2%85"),
        (b"%0A", "%250A"),
    ],
)
def test_ordinary_text_stays_readable_and_the_rest_is_escaped(name, uri):
    assert encode_uri(name) == uri
    assert encode_uri(name.decode("utf-8", "surrogateescape")) == uri


def test_rules_see_one_form_of_a_name_however_it_was_typed():
    assert rule_text(encode_uri("100%/a")) == rule_text("100%/a") == rule_text("100%25/a")
    decomposed = unicodedata.normalize("NFD", "Café/a")
    assert rule_text(encode_uri(decomposed)) == rule_text("Café/a")
    assert rule_text(encode_uri(b"Geh\xe4lter")) == "Geh%E4lter"
