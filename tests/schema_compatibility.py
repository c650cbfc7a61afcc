"""Whether a newer JSON Schema takes everything that an older one took: what a published format must keep to.

Compares structure, and is careful: a change that it cannot judge counts as a break.
"""

import re
from collections.abc import Iterator
from typing import Any

_MINIMA = ("minLength", "minItems", "minProperties", "minimum")
_MAXIMA = ("maxLength", "maxItems", "maxProperties", "maximum")
_WORDS = ("description", "title", "$comment", "examples", "$id", "$schema")
_COMPARED = (*_MINIMA, *_MAXIMA, *_WORDS, "type", "enum", "const", "required", "properties", "patternProperties",
             "additionalProperties", "items", "propertyNames", "$defs", "$ref")  # fmt: skip


def breaks(old: Any, new: Any, at: str = "$") -> list[str]:
    """What the newer schema refuses and the older one took, place by place; nothing: it is compatible."""
    return list(_breaks(old, new, at))


def _breaks(old: Any, new: Any, at: str) -> Iterator[str]:
    if old is False or new is True:
        return
    if old is True:
        old = {}
    if not isinstance(new, dict):
        yield f"{at}: nothing is allowed any more"
        return
    yield from _values(old, new, at)
    for name in _MINIMA:
        if name in new and (name not in old or new[name] > old[name]):
            yield f"{at}: {name} is {new[name]}, and was {old.get(name, 'not there')}"
    for name in _MAXIMA:
        if name in new and (name not in old or new[name] < old[name]):
            yield f"{at}: {name} is {new[name]}, and was {old.get(name, 'not there')}"
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{at}: {name} is required now"
    yield from _children(old, new, at)
    for name in sorted((old.keys() | new.keys()) - set(_COMPARED)):
        if name == "pattern" and _takes_more(str(old.get(name, "")), str(new.get(name, ""))):
            continue
        if name in new and old.get(name) != new[name]:
            yield f"{at}: {name} has changed"


def _values(old: dict[str, Any], new: dict[str, Any], at: str) -> Iterator[str]:
    if "type" in new:
        before = set(_listed(old["type"])) if "type" in old else {"anything"}
        after = set(_listed(new["type"]))
        gone = before - after - ({"integer"} if "number" in after else set())
        if gone:
            yield f"{at}: {', '.join(sorted(gone))} is no longer a type here"
    if "enum" in new or "const" in new:
        after = _allowed(new)
        before = _allowed(old)
        gone = ["anything"] if before is None else [value for value in before if value not in after]
        if gone:
            yield f"{at}: {', '.join(map(str, gone))} is no longer a value here"
    if new.get("$ref") != old.get("$ref"):
        yield f"{at}: $ref has changed"


def _children(old: dict[str, Any], new: dict[str, Any], at: str) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in sorted(before.keys() - after.keys()):
        yield f"{at}.{name}: was removed"
    for name in sorted(before.keys() & after.keys()):
        yield from _breaks(before[name], after[name], f"{at}.{name}")
    if old.get("additionalProperties", True) is not False:
        for name in sorted(after.keys() - before.keys()):
            yield f"{at}.{name}: could be anything before"
    for group in ("patternProperties", "$defs"):
        ours, theirs = old.get(group, {}), new.get(group, {})
        for name in sorted(ours.keys() - theirs.keys()):
            yield f"{at} {group} {name}: was removed"
        for name in sorted(ours.keys() & theirs.keys()):
            yield from _breaks(ours[name], theirs[name], f"{at} {group} {name}")
    for name in ("additionalProperties", "items", "propertyNames"):
        if name in new:
            yield from _breaks(old.get(name, True), new[name], f"{at} {name}")


def _allowed(schema: dict[str, Any]) -> Any:
    """The only values, None for no such limit."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _listed(types: Any) -> list[str]:
    return [types] if isinstance(types, str) else types


def _takes_more(old: str, new: str) -> bool:
    """Whether the newer pattern is the beginning of the older one, so that whatever had that end has the beginning."""
    plain = new.startswith("^") and old.startswith(new) and "|" not in re.sub(r"\([^()]*\)", "", old)
    return plain and old[len(new) :][:1] not in ("*", "+", "?", "{")
