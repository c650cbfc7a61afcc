from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import EncoderConfig
from pipelines.embedding.tokenizer import Tokenizer, load_tokenizer, model_folder
from pipelines.errors import ConfigError

FOLDER = model_folder(EncoderConfig())
ODD = [
    "",
    " \n\t ",
    "a\x0bb",
    "a\x1cb c\x85d",
    "a\u200bb",
    "\u0301abc",
    "한국어 텍스트",
    "東京タワー。高い",
    "ก็ดี ไทยภาษา",
    "👩\u200d👩\u200d👧 ok",
    "x" * 101 + " y",
    "İstanbul ﬁn ǆ",
    "[SEP] hello[MASK]x [UNK]",
    "a\u00a0b\u2028c\u3000d\u205fe\ufefff",
    "don't stop-now (e.g. 3.14%)",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(EncoderConfig())


def exact(texts: list[str]) -> list[int]:
    import tokenizers

    plain = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    plain.no_truncation()
    plain.no_padding()
    return [len(e) for e in plain.encode_batch(texts)]


def test_the_limit_is_that_of_sentence_transformers_with_two_special_tokens(tokenizer: Tokenizer) -> None:
    assert (tokenizer.max_tokens, tokenizer.special_tokens) == (256, 2)


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_texts_are_counted_as_the_tokenizer_counts_them(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.count([text, text + " " + text]) == exact([text, text + " " + text])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=80) | st.sampled_from(ODD), max_size=8).map(" ".join))
def test_counting_word_by_word_is_exact(text: str) -> None:
    assert load_tokenizer(EncoderConfig()).count([text]) == exact([text])


def test_counting_again_gives_the_same_also_after_learning(tokenizer: Tokenizer) -> None:
    texts = ["unbelievable tokenisation " * 3, "z" * 60, "another"]
    first = tokenizer.count(texts)
    tokenizer.learn(texts)
    assert tokenizer.count(texts) == first == exact(texts)


def test_offsets_name_the_characters_of_each_token(tokenizer: Tokenizer) -> None:
    text = "Tokyo 東京 unaffable"
    assert [text[a:b] for a, b in tokenizer.offsets(text)] == ["Tokyo", "東", "京", "una", "ffa", "ble"]


def test_a_copy_in_another_process_counts_the_same(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.count(["a copy"]) == tokenizer.count(["a copy"])


def test_the_fingerprint_changes_with_the_limit_and_with_the_vocabulary(tmp_path: Path, tokenizer: Tokenizer) -> None:
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    shorter = Tokenizer(tmp_path)
    definition = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    definition["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    cased = Tokenizer(tmp_path)
    assert shorter.max_tokens == 128
    assert len({tokenizer.fingerprint, shorter.fingerprint, cased.fingerprint}) == 3


def test_a_tokenizer_of_another_family_is_not_taken_to_be_additive(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "config.json", tmp_path)
    definition = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    definition["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    other = Tokenizer(tmp_path)
    assert not other.additive
    assert other.max_tokens == 512
    assert other.count(["plain words"]) == [4]


@pytest.mark.parametrize("model", ["no-such-package", "json", "/nowhere/at all"])
def test_a_model_that_is_not_there_is_a_configuration_error_that_says_what_to_do(model: str) -> None:
    with pytest.raises(ConfigError, match=r"install the package, or give the path"):
        load_tokenizer(EncoderConfig(model=model))


def test_a_folder_without_a_tokenizer_or_a_limit_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)
    shutil.copy(FOLDER / "tokenizer.json", tmp_path)
    with pytest.raises(ConfigError, match="max_seq_length"):
        Tokenizer(tmp_path)


def test_counting_needs_neither_torch_nor_transformers() -> None:
    import subprocess

    code = (
        "import sys; from pipelines.config import EncoderConfig;"
        "from pipelines.embedding.tokenizer import load_tokenizer;"
        "load_tokenizer(EncoderConfig()).count(['x']); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.integration
def test_counts_are_those_of_sentence_transformers_own_tokenizer(tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(str(FOLDER))
    encoded = own(ODD, truncation=False, padding=False)["input_ids"]
    assert tokenizer.count(ODD) == [len(ids) for ids in encoded]
