"""docs/configuration.md names every key with the default that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipelines.config import Config
from pipelines.sources.registry import KINDS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z_.0-9]+)` \| (.+?) \|", PAGE, flags=re.MULTILINE))
SECTIONS = {
    f"{name}.{key}": field.default
    for name, section in Config.model_fields.items()
    if isinstance(section.default, BaseModel)
    for key, field in type(section.default).model_fields.items()
}
SOURCE_KEYS = sorted({key for kind in KINDS.values() for key in kind.section.model_fields})


@pytest.mark.parametrize("key", [*SECTIONS, *SOURCE_KEYS])
def test_every_key_is_on_the_page(key: str) -> None:
    assert key in ROWS


@pytest.mark.parametrize(
    "key", [key for key, value in SECTIONS.items() if value not in (None, PydanticUndefined)], ids=str
)
def test_the_page_has_the_defaults_of_the_code(key: str) -> None:
    assert ROWS[key].strip("`").lower() == str(SECTIONS[key]).lower()


def test_the_page_names_no_key_that_does_not_exist() -> None:
    known = {*SECTIONS, *SOURCE_KEYS, *Config.model_fields}
    assert set(ROWS) <= known
