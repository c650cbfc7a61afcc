import re
from pathlib import Path

from pipelines.config import load_config
from pipelines.sources.registry import KINDS

EXAMPLE = Path(__file__).parents[3] / "examples" / "sources.yaml"


def test_the_example_is_a_configuration_with_one_source_of_every_kind():
    config = load_config(EXAMPLE, environ={})
    assert sorted(source.kind for source in config.sources) == sorted(KINDS)


def test_the_example_names_environment_variables_and_holds_no_secret():
    text = EXAMPLE.read_text(encoding="utf-8")
    for key, value in re.findall(r"(\w*(?:secret|password|token)\w*): *(\S+)", text):
        assert re.search(r"_env(_previous)?$", key), key
        assert re.fullmatch(r"[A-Z_]+", value), value
