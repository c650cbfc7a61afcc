"""The compiled rules against a plain reading of the documentation, written here without regular expressions."""

import datetime
import random
import re
import unicodedata

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.governance.access import AclRegistry, SourceLabels, acl_ids_for, readers_for
from pipelines.lake.schemas import ACL_SETS
from pipelines.sources.addresses.uris import encode_uri
from pipelines.sources.filesystem.section import FilesystemSource
from pipelines.sources.section import AccessRule

AT = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
PRINCIPALS = ["user:ada", "user:bob", "group:hr", "group:staff", "group:*", "role:admin", "role:admin2"]
NAMES = [
    b"a", b"b", b"hr", b"HR", b"hrx", b"x.md", b".md", b".git", b"...", b"a b", b" a", b"new\nline", b"hr\n", b"100%",
    b"50%25", b"%41", b"*", b"?", b"[a]", b"{a,b}", b"!a", b"a\\b", b"-", b"^", b"$", b"(x|y)", b"Geh\xe4lter",
    "Café".encode(), "Cafe\u0301".encode(), "日本".encode(), b"\x7f\x01", b"~", b"x" * 200, b"a.md\n",
    "a\u2028b".encode(), b"&&", b"a--b",
]  # fmt: skip
SEGMENTS = [
    "**", "**", "*", "*", "?", "a", "b", "hr", "HR", "x.md", "*.md", "*.*", ".*", "a*", "*a*", "?r", "??", "[a-h]*",
    "[!a]", "[!a]*", "[^h]r", "[*]", "[?]", "[]a]*", "[a", "100%", "100%25", "50%", "%41", "Geh%E4lter", "Geh*lter",
    "Café", "Cafe\u0301", "日?", "{a,b}", "!a", r"\*", r"a\\b", "*\u2028*", "*%0A*", "hr%0A", "*line", "x*x", "(x|y)",
    "$", "^", "-", "~", ".git", "...", "[.]*",
]  # fmt: skip


def plain_text(path: bytes) -> str:
    """A path as the documentation says that patterns see it."""
    text = ""
    for character in path.decode("utf-8", "surrogateescape"):
        strange = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        escaped = "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
        text += escaped if strange else character
    return plain_pattern(text)


def plain_pattern(text: str) -> str:
    return unicodedata.normalize("NFC", re.sub("%(25)+", "%", text))


def segments_match(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        if len(pattern) == 1:
            return bool(path)
        return any(segments_match(pattern[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and characters_match(pattern[0], path[0]) and segments_match(pattern[1:], path[1:])


def characters_match(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(characters_match(pattern[1:], text[skip:]) for skip in range(len(text) + 1))
    if pattern[0] == "?":
        return bool(text) and characters_match(pattern[1:], text[1:])
    if pattern[0] == "\\" and len(pattern) > 1:
        return text[:1] == pattern[1] and characters_match(pattern[2:], text[1:])
    if pattern[0] == "[":
        start = 2 if pattern[1:2] in ("!", "^") else 1
        end = pattern.find("]", start + 1)  # a bracket that comes first is one of the set
        if end > 0:
            inside = bool(text) and in_set(pattern[start:end], text[0]) != (start == 2)
            return inside and characters_match(pattern[end + 1 :], text[1:])
    return text[:1] == pattern[0] and characters_match(pattern[1:], text[1:])


def in_set(members: str, character: str) -> bool:
    if len(members) == 3 and members[1] == "-":
        return members[0] <= character <= members[2]
    return character in members


def plain_readers(rules: tuple[AccessRule, ...], path: bytes) -> set[str]:
    for rule in rules:
        if segments_match(plain_pattern(rule.match).split("/"), plain_text(path).split("/")):
            return set(rule.readers)
    return {"role:admin"}


paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(b"/".join)
patterns = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map("/".join)
rule_sets = st.lists(
    st.builds(AccessRule, match=patterns, readers=st.lists(st.sampled_from(PRINCIPALS), max_size=3).map(tuple)),
    max_size=5,
).map(tuple)


@settings(max_examples=200, deadline=None)
@given(rule_sets, st.lists(paths, min_size=1, max_size=4))
def test_compiled_rules_read_as_the_documentation_does(rules, names):
    for path in names:
        assert set(readers_for(rules, encode_uri(path))) == plain_readers(rules, path)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=12).filter(lambda name: not {b"", b".", b".."} & set(name.split(b"/"))), patterns)
def test_any_bytes_as_a_name_are_read_as_the_documentation_does(path, pattern):
    rules = (AccessRule(match=pattern, readers=("group:hr",)), AccessRule(match="**", readers=("group:staff",)))
    assert set(readers_for(rules, encode_uri(path))) == plain_readers(rules, path)


def near_pattern(rng: random.Random, name: bytes) -> str:
    """The name itself as a pattern, some of its segments and characters replaced by wildcards."""
    segments = plain_text(name).split("/")
    for at in range(len(segments)):
        choice = rng.random()
        if choice < 0.4:
            segments[at] = rng.choice(["*", "**", "?*"])
        elif choice < 0.6:
            cut = rng.randrange(len(segments[at]))
            segments[at] = (segments[at][:cut] + rng.choice("*?") + segments[at][cut + 1 :]).replace("**", "*")
    return "/".join(segments)


def random_rules(rng: random.Random, names: list[bytes]) -> tuple[AccessRule, ...]:
    rules = []
    for _ in range(rng.randint(0, 6)):
        if rng.random() < 0.6:
            match = near_pattern(rng, rng.choice(names))
        else:
            match = "/".join(rng.choices(SEGMENTS, k=rng.randint(1, 3)))
        rules.append(AccessRule(match=match, readers=tuple(rng.choices(PRINCIPALS, k=rng.randint(0, 3)))))
    return tuple(rules)


def test_thirty_thousand_checks_find_nobody_who_reads_too_much_or_too_little():
    rng = random.Random(20_260_501)
    checks = allowed = covered = 0
    for _ in range(150):
        names = sorted({b"/".join(rng.choices(NAMES, k=rng.randint(1, 4))) for _ in range(25)})
        rules = random_rules(rng, names)
        registry = AclRegistry(ACL_SETS.empty_table())
        labels = SourceLabels(FilesystemSource(name="s", kind="filesystem", path="x", access=rules), registry)
        acl_ids = labels.acl_ids(pa.chunked_array([[encode_uri(name) for name in names]])).tolist()
        table = registry.new_rows(AT)
        expected = [plain_readers(rules, name) for name in names]
        for caller in [*([p] for p in PRINCIPALS), rng.sample(PRINCIPALS, 2), []]:
            mine = acl_ids_for(caller, table)
            for name, acl_id, readers in zip(names, acl_ids, expected, strict=True):
                may = bool(readers & set(caller))
                assert (acl_id in mine) == may, (caller, rules, name)
                checks += 1
                allowed += may
        covered += sum(readers != {"role:admin"} for readers in expected)
    assert checks > 30_000
    assert allowed > 3_000
    assert covered > 800
