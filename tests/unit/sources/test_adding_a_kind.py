"""The kind that docs/sources.md shows, run as it stands there through the contract suite."""

import re
import sys
import types
from pathlib import Path

import pytest

from pipelines.sources.registry import Kind
from tests import source_contract
from tests.source_contract import SourceContract

PAGE = Path(__file__).parents[3] / "docs" / "sources.md"


def shown() -> types.ModuleType:
    section = PAGE.read_text(encoding="utf-8").partition("## Adding a source kind")[2]
    kind, registration, harness = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    module = types.ModuleType("shown_kind")
    sys.modules["shown_kind"] = module  # pydantic looks up the types of a section there
    names = module.__dict__
    exec(compile(kind, str(PAGE), "exec"), names)
    names |= {"Kind": Kind, "Harness": source_contract.Harness, "SourceContract": SourceContract, "pytest": pytest}
    exec(compile("registered = {" + registration + "}", str(PAGE), "exec"), names)
    exec(compile(harness, str(PAGE), "exec"), names)
    return module


SHOWN = shown()


class TestTheKindThatIsShown(SourceContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return SHOWN.ZipHarness(tmp_path)


def test_the_registration_that_is_shown_opens_the_source(tmp_path):
    (kind,) = SHOWN.registered.values()
    harness = SHOWN.ZipHarness(tmp_path)
    harness.put("a.md", b"text")
    assert isinstance(harness.section, kind.section)
    assert len(kind.open(harness.section, None).list().items) == 1
    assert kind.stream(harness.section, None) is None


def test_the_shown_test_module_is_one_that_runs_the_whole_suite():
    assert issubclass(SHOWN.TestZip, SourceContract)
