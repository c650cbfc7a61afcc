"""Patterns over uris: `*` and `?` within a path segment, `[...]` a set of characters, `**` any number of segments.

Used for `include`, `exclude` and access rules. Upper and lower case differ on every system; a backslash takes the
next character literally. The translation to regular expressions is wcmatch's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pipelines.sources.addresses.uris import rule_text


def check_pattern(pattern: str) -> str:
    """The pattern itself, if it can match a uri at all.

    Raises:
        ValueError: it never can, or means less than it seems to. For an access rule that would be a leak: its
            documents would fall to the next, wider rule.
    """
    if not pattern:
        raise ValueError("the pattern is empty; write '**' for everything")
    if pattern.startswith("/"):
        raise ValueError(f"{pattern!r} starts with '/', uris are relative; write {pattern.lstrip('/') or '**'!r}")
    if pattern.endswith("/"):
        raise ValueError(f"{pattern!r} ends with '/' and names no document; write {pattern.rstrip('/') + '/**'!r}")
    for segment in pattern.split("/"):
        if segment in ("", ".", ".."):
            raise ValueError(f"{pattern!r} has the segment {segment!r}, which no uri has; remove it")
        if "**" in segment and segment != "**":
            raise ValueError(
                f"{pattern!r}: '**' must stand alone between slashes; write '*' to stay within one folder, "
                f"or for instance '**/{segment.replace('**', '*')}' for any depth"
            )
    return pattern


@lru_cache(maxsize=4_096)
def _translate(pattern: str, hidden: bool) -> str:
    """One regular expression without capturing groups; `hidden`: wildcards match a leading dot too."""
    from wcmatch import glob  # about 30 ms to import, and most commands list nothing

    flags = glob.GLOBSTAR | glob.CASE | glob.FORCEUNIX | (glob.DOTGLOB if hidden else 0)
    text = rule_text(check_pattern(pattern))
    if hidden and text == "**":
        return "(?s:.*)"  # everything, without wcmatch's look-aheads: four times faster on the commonest rule
    includes, _ = glob.translate(text, flags=flags)
    return str(includes[0])


@dataclass(frozen=True, slots=True)
class PatternList:
    """Ordered patterns as one regular expression; the first pattern that matches the whole uri decides."""

    _expression: re.Pattern[str]
    _count: int

    @classmethod
    def compile(cls, patterns: Sequence[str], *, hidden: bool) -> PatternList:
        """Compile once, match often.

        Args:
            patterns: tried in this order.
            hidden: whether wildcards match names that start with a dot.

        Raises:
            ValueError: a pattern cannot match anything (see `check_pattern`).
        """
        expression = re.compile("|".join(f"({_translate(pattern, hidden)})" for pattern in patterns) or "(?!)")
        assert expression.groups == len(patterns)
        return cls(expression, len(patterns))

    def first(self, uri: str) -> int:
        """Position of the first pattern that matches, or -1."""
        found = self._expression.fullmatch(rule_text(uri))
        return found.lastindex - 1 if found and found.lastindex else -1

    def matches(self, uri: str) -> bool:
        """Whether any pattern matches."""
        return self._expression.fullmatch(rule_text(uri)) is not None


@dataclass(frozen=True, slots=True)
class PathFilter:
    """Which files of a folder are documents.

    Hidden names (a leading dot) are left out unless an `include` pattern writes the dot, as in a shell: a folder
    that is watched often holds `.git` or an editor's droppings. `exclude` and access rules see hidden names, and a
    folder that `exclude` matches is left out with all that lies below it.
    """

    _include: PatternList
    _exclude: PatternList
    _pruned: PatternList
    _enters_hidden: bool

    @classmethod
    def compile(cls, include: Sequence[str], exclude: Sequence[str]) -> PathFilter:
        """Compile the two lists of a source's configuration.

        Raises:
            ValueError: a pattern cannot match anything (see `check_pattern`).
        """
        whole_folders = [pattern[:-3] for pattern in exclude if len(pattern) > 3 and pattern.endswith("/**")]
        return cls(
            PatternList.compile(include, hidden=False),
            PatternList.compile(exclude, hidden=True),
            PatternList.compile([*exclude, *whole_folders], hidden=True),
            any(segment.startswith((".", "[.", "\\.")) for p in include for segment in p.split("/")),
        )

    def selects(self, uri: str) -> bool:
        """Whether the file is a document of this source."""
        return self._include.matches(uri) and not self._exclude.matches(uri)

    def enters(self, uri: str) -> bool:
        """Whether the folder may hold selected files, so that it must be read."""
        if not self._enters_hidden and uri.rpartition("/")[2].startswith("."):
            return False
        return not self._pruned.matches(uri)
