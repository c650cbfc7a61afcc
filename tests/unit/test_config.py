from pathlib import Path

import pytest

from pipelines.config import Config, load_config
from pipelines.errors import ConfigError

SMALLEST = """\
index: handbook
sources:
  - name: handbook
    kind: filesystem
    path: corpus
"""


@pytest.fixture
def load(tmp_path: Path):
    def read(text: str, **environ: str) -> Config:
        path = tmp_path / "lockstep.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ)

    return read


def test_the_smallest_file_is_enough_and_its_paths_start_at_the_file(load, tmp_path):
    config = load(SMALLEST)
    assert config.source("handbook").path == tmp_path / "corpus"
    assert config.guard.max_deleted_share == 0.3


def test_an_absolute_path_stays(load):
    assert load(SMALLEST.replace("corpus", "/srv/corpus")).sources[0].path == Path("/srv/corpus")


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml.*--config"):
        load_config(tmp_path / "absent.yaml", {})


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, {})


def test_bytes_that_are_not_utf8_are_an_error_and_no_crash(tmp_path):
    path = tmp_path / "lockstep.yaml"
    path.write_bytes(b"index: \xff\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path, {})


@pytest.mark.parametrize("text", ["", "- a\n", "just a text\n"], ids=["empty", "list", "text"])
def test_a_file_that_is_no_mapping_says_what_is_expected(load, text):
    with pytest.raises(ConfigError, match="'index' and 'sources'"):
        load(text)


def test_broken_yaml_is_named(load):
    with pytest.raises(ConfigError, match="not valid YAML"):
        load("index: [\n")


@pytest.mark.parametrize(
    ("addition", "line", "key", "words"),
    [
        ("    inclde: ['a']\n", 6, "sources.0.inclde", "unknown key"),
        ("    max_bytes: 0\n", 6, "sources.0.max_bytes", "greater than 0"),
        ("encoder:\n  dtype: int8\n", 7, "encoder.dtype", "'auto', 'float32' or 'bfloat16' (found 'int8')"),
        ("encodr: {}\n", 6, "encodr", "unknown key"),
        ("    access:\n      - {match: 'hr/', readers: ['group:hr']}\n", 7, "access.0.match", "write 'hr/**'"),
        ("    access:\n      - {match: 'a**', readers: ['group:hr']}\n", 7, "access.0.match", "must stand alone"),
        ("    access:\n      - {match: '**', readers: ['grp:hr']}\n", 7, "access.0.readers.0", "found 'grp:hr'"),
        ("    access:\n      - {match: '**'}\n", 7, "access.0.readers", "required"),
        ("    include: ['/etc/**']\n", 6, "sources.0.include.0", "write 'etc/**'"),
        ("  - name: other\n    kind: ftp\n    path: x\n", 6, "sources.1", "expected tags: 'filesystem'"),
        ("  - name: other\n    path: x\n", 6, "sources.1", "'kind' is required"),
        ("    path: elsewhere\n", 6, "path", "twice"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(load, addition, line, key, words):
    with pytest.raises(ConfigError) as caught:
        load(SMALLEST + addition)
    (message,) = str(caught.value).splitlines()
    assert f"lockstep.yaml:{line}: " in message
    assert key in message
    assert words in message


@pytest.mark.parametrize("password", ["hunter2", "h/un@ter2", "h:unter2"])
def test_a_password_that_should_not_be_there_is_not_repeated(load, password):
    database = (
        f"  - {{name: db, kind: database, url: 'postgresql://ada:{password}@h/x', table: t, columns: {{key: k}}}}\n"
    )
    with pytest.raises(ConfigError, match="holds a password") as caught:
        load(SMALLEST + database)
    assert "ter2" not in str(caught.value)
    assert "ada:***@h" in str(caught.value)


def test_all_mistakes_are_listed_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load(SMALLEST + "    inclde: []\nguard: {max_deleted_share: 2}\nlimits: {max_failures: -1}\n")
    assert len(str(caught.value).splitlines()) == 3


def test_two_sources_of_one_name_are_refused(load):
    with pytest.raises(ConfigError, match="two sources are named 'handbook'"):
        load(SMALLEST + "  - {name: handbook, kind: records, path: a.jsonl}\n")


def test_an_alias_that_contains_itself_ends_in_an_error(load):
    with pytest.raises(ConfigError, match="unknown key"):
        load(SMALLEST + "a: &a [*a]\n")


def test_a_source_that_is_not_configured_is_named_with_those_that_are(load):
    with pytest.raises(ConfigError, match=r"'papers'.*handbook"):
        load(SMALLEST).source("papers")


def test_a_variable_overrides_one_value(load):
    config = load(SMALLEST + "guard: {max_deleted_share: 0.1}\n", LOCKSTEP__GUARD__MAX_DELETED_SHARE="0.5")
    assert config.guard.max_deleted_share == 0.5
    assert load(SMALLEST, LOCKSTEP__INDEX="other").index == "other"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("LOCKSTEP__ENCODER__DTYPE", "int8", "encoder.dtype"),
        ("LOCKSTEP__ENCODR__DTYPE", "float32", "unknown key"),
        ("LOCKSTEP__ENCODER__DTIPE", "float32", "unknown key"),
        ("LOCKSTEP__INDEX__DTYPE", "float32", "is not a section"),
        ("LOCKSTEP__ENCODER__DTYPE", "[a", "not valid YAML"),
    ],
)
def test_a_wrong_variable_is_named_itself_and_not_the_file(load, variable, value, words):
    with pytest.raises(ConfigError) as caught:
        load(SMALLEST, **{variable: value})
    message = str(caught.value)
    assert variable in message
    assert words in message
    assert "lockstep.yaml" not in message


def test_other_variables_do_not_matter(load):
    assert load(SMALLEST, LOCKSTEP_HOME="/data", PATH="/bin").index == "handbook"
