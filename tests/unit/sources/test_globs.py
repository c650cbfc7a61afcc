import pytest

from pipelines.sources.addresses.globs import PathFilter, PatternList, check_pattern


def first(*patterns: str, uri: str) -> int:
    return PatternList.compile(patterns, hidden=True).first(uri)


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("**", ["a", "a/b/c.md", ".git/x", "a/.b", "a b/c", "../x", "https://host/x", "x/"], []),
        ("**/*", ["a", "a/b/c.md", ".a"], []),
        ("hr/**", ["hr/a", "hr/a/b", "hr/.a"], ["hr", "hrx/a", "a/hr/b", "HR/a"]),
        ("*.md", ["a.md", ".md", "a b.md"], ["a/b.md", "a.mdx", "a.md\nx"]),
        ("**/*.md", ["a.md", "a/b.md", "a/b/c.md"], ["a.md/b", "a.txt"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a/zz", "b/a/z"]),
        ("?.txt", ["a.txt", "ü.txt"], ["ab.txt", "/.txt", ".txt"]),
        ("[a-c]/x", ["a/x", "c/x"], ["d/x", "ab/x"]),
        ("[!a]x", ["bx"], ["ax", "/x"]),
        (r"\*.md", ["*.md"], ["a.md"]),
        ("{a,b}", ["{a,b}"], ["a", "b"]),
        ("!x", ["!x"], ["y"]),
        ("Café/**", ["Café/x", "Cafe\u0301/x"], ["Cafe/x"]),
    ],
)
def test_a_pattern_means_what_the_documentation_says(pattern, matching, other):
    assert [uri for uri in matching if first(pattern, uri=uri) != 0] == []
    assert [uri for uri in other if first(pattern, uri=uri) == 0] == []


def test_the_first_of_several_matching_patterns_is_told():
    assert first("hr/**", "**/*.md", "**", uri="hr/a.md") == 0
    assert first("hr/**", "**/*.md", "**", uri="it/a.md") == 1
    assert first("hr/**", "**/*.md", "**", uri="it/a.txt") == 2
    assert first("hr/**", "**/*.md", uri="it/a.txt") == -1
    assert first(uri="a") == -1


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("", "'\\*\\*'"),
        ("hr/", "'hr/\\*\\*'"),
        ("/hr/**", "'hr/\\*\\*'"),
        ("/", "write"),
        ("a//b", "remove"),
        ("./a", "remove"),
        ("a/../b", "remove"),
        ("**.md", r"'\*\*/\*\.md'"),
        ("hr**", "must stand alone"),
    ],
)
def test_a_pattern_that_would_silently_match_nothing_is_refused_with_a_better_one(pattern, advice):
    with pytest.raises(ValueError, match=advice):
        check_pattern(pattern)


def test_hidden_names_are_left_out_unless_an_include_writes_the_dot():
    usual = PathFilter.compile(["**/*"], [])
    assert usual.selects("a/b.md")
    assert not usual.selects(".env")
    assert not usual.selects("a/.git/config")
    assert not usual.enters("a/.git")
    asked = PathFilter.compile(["**/*", ".github/**"], [])
    assert asked.enters(".github")
    assert asked.selects(".github/workflow.yml")
    assert not asked.selects(".git/config")


@pytest.mark.parametrize("pattern", ["drafts", "drafts/**", "**/drafts/**", "d*"])
def test_an_excluded_folder_is_not_entered(pattern):
    chosen = PathFilter.compile(["**/*"], [pattern])
    assert not chosen.enters("drafts")
    assert chosen.enters("notes")


def test_exclude_wins_over_include_and_sees_hidden_names():
    chosen = PathFilter.compile(["**/*", "**/.*"], ["**/*.tmp"])
    assert chosen.selects(".keep")
    assert not chosen.selects("a/b.tmp")
    assert not chosen.selects(".b.tmp")


def test_a_folder_whose_files_are_partly_excluded_is_entered():
    assert PathFilter.compile(["**/*"], ["a/*.md"]).enters("a")
