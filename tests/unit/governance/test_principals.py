"""How people, groups, roles and tenants are written."""

from __future__ import annotations

import unicodedata

import pytest

from pipelines.errors import AccessError
from pipelines.principals import access_set, parse_principal, parse_tenant

NAMES = (
    "ada",
    "Domain Users",
    "R&D, Berlin",
    "ada@example.org",
    "a:b",
    "CORP\\ada",
    "O'Brien",
    '"quoted"',
    "CN=Ada Lovelace,OU=R&D,DC=example,DC=org",
    "日本",
    "Büro",
    "a  b",
    "*",
    "-",
    "👩‍🔬",
    "x" * 512,
)


@pytest.mark.parametrize("kind", ["user", "group", "role"])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_that_a_directory_can_have_is_kept_as_it_is(kind: str, name: str) -> None:
    assert parse_principal(f"{kind}:{name}") == f"{kind}:{name}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "user:",
        "User:ada",
        "team:hr",
        "user: ada",
        "user:ada ",
        "user:a\n",
        "user:a\nb",
        "user:a\tb",
        "user:a\x00b",
        "user:a\x7fb",
        "user:a\u0085b",
        "user:a\u2028b",
        "user:\ud800",
        " user:a",
        "user:\u2003x",
        ":a",
        "user:" + "x" * 513,
    ],
)
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(AccessError, match="write user:NAME, group:NAME or role:NAME"):
        parse_principal(text)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_held_in_one_form(form: str) -> None:
    assert parse_principal("group:" + unicodedata.normalize(form, "Büro Zürich Å")) == "group:Büro Zürich Å"


@pytest.mark.parametrize(
    ("one", "other"),
    [("Büro", "BÜRO"), ("straße", "STRASSE"), ("Σίσυφος", "ΣΊΣΥΦΟΣ"), ("Domain Users", "domain users")],
)
def test_folded_names_that_differ_in_case_are_one_and_unfolded_ones_are_two(one: str, other: str) -> None:
    for form in ("NFC", "NFD"):
        written = unicodedata.normalize(form, other)
        assert parse_principal(f"group:{one}", fold_case=True) == parse_principal(f"group:{written}", fold_case=True)
    assert parse_principal(f"group:{one}") != parse_principal(f"group:{other}")


def test_a_set_has_each_principal_once_in_one_order() -> None:
    assert access_set(["user:b", "group:Bu\u0308ro", "group:Büro", "user:b"]) == ("group:Büro", "user:b")
    assert access_set(["user:ADA", "user:ada"], fold_case=True) == ("user:ada",)


@pytest.mark.parametrize("text", ["", " a", "a\n", "x" * 513])
def test_a_tenant_has_a_name(text: str) -> None:
    with pytest.raises(AccessError, match="no name of a tenant"):
        parse_tenant(text)
    assert parse_tenant("Bu\u0308ro & Co, 2") == "Büro & Co, 2"
