from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config import LexicalConfig
from pipelines.lexical import analyze, analyzer_fp, document_vector, document_vectors, query_vector

CONFIG = LexicalConfig(k1=0.9, b=0.4, average_length=10)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The Mice were running, and RAN again!", ["mice", "run", "ran", "again"]),
        ("IL-6 and p53", ["il", "6", "p53"]),
        ("the patient's doesn't", ["patient", "doesnt"]),
        ("ｆｕｌｌ ﬁne", ["full", "fine"]),
        ("STRASSE straße", ["strass", "strass"]),
        ("snake_case_name", ["snake", "case", "name"]),
        ("हिन्दी पाठ", ["हिन्दी", "पाठ"]),
        ("東京都 hello 京", ["hello", "東京", "京都", "京"]),
        ("ภาษาไทย", ["ภา", "าษ", "ษา", "าไ", "ไท", "ทย"]),
        ("データ", ["デー", "ータ"]),
        ("naïve café", ["naïv", "café"]),
        ("— … 👍", []),
        ("", []),
    ],
    ids=ascii,
)
def test_a_text_is_analysed_into_terms(text: str, terms: list[str]) -> None:
    assert analyze(text, CONFIG) == terms


def test_composed_and_decomposed_letters_are_the_same_term() -> None:
    assert analyze("cafe\u0301") == analyze("caf\u00e9")


def test_a_word_is_the_same_term_beside_other_scripts() -> None:
    assert analyze("don't connections 3rd") == analyze("don't connections 3rd 東")[:-1]


def test_without_a_stemmer_words_stay_whole() -> None:
    assert analyze("running mice", LexicalConfig(stemmer="none")) == ["running", "mice"]


def test_weights_are_bm25_with_the_fixed_average_length() -> None:
    terms, weights = document_vector("fox fox jumps", CONFIG)
    scale = 0.9 * (1 - 0.4 + 0.4 * 3 / 10)
    expected = sorted([2 * 1.9 / (2 + scale), 1 * 1.9 / (1 + scale)])
    assert sorted(weights.tolist()) == pytest.approx(expected, rel=1e-6)
    assert terms.tolist() == sorted(terms.tolist())


def test_a_text_without_words_has_an_empty_vector_and_leaves_the_others_alone() -> None:
    offsets, terms, weights = document_vectors(["one fox", "...", "", "two foxes"], CONFIG)
    assert offsets.tolist() == [0, 2, 2, 2, 4]
    assert terms[0:2].tolist() == document_vector("one fox", CONFIG)[0].tolist()
    assert terms[2:4].tolist() == document_vector("two foxes", CONFIG)[0].tolist()
    assert weights.dtype == np.float32


def test_no_texts_give_no_entries() -> None:
    offsets, terms, weights = document_vectors([], CONFIG)
    assert (offsets.tolist(), len(terms), len(weights)) == ([0], 0, 0)


def test_a_question_weighs_rare_terms_more_and_leaves_unknown_ones_out() -> None:
    fox, dog = (int(document_vector(word, CONFIG)[0][0]) for word in ("fox", "dog"))
    known = sorted([(fox, 1), (dog, 60)])
    frequencies = ([t for t, _ in known], [n for _, n in known])
    vector = query_vector("Is the fox a unicorn, fox or dog?", CONFIG, frequencies, 100)
    assert vector == {
        fox: pytest.approx(2 * math.log(1 + 99.5 / 1.5)),
        dog: pytest.approx(math.log(1 + 40.5 / 60.5)),
    }


@pytest.mark.parametrize("question", ["", "the of", "unicorn"])
def test_a_question_without_known_terms_is_empty(question: str) -> None:
    assert query_vector(question, CONFIG, ([5], [1]), 10) == {}
    assert query_vector(question, CONFIG, ([], []), 0) == {}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=60), max_size=6))
def test_vectors_of_any_texts_are_valid_sparse_vectors(texts: list[str]) -> None:
    offsets, terms, weights = document_vectors(texts, CONFIG)
    for i, text in enumerate(texts):
        row = slice(offsets[i], offsets[i + 1])
        assert len(set(analyze(text, CONFIG))) == len(terms[row])
        assert (np.diff(terms[row]) > 0).all()
    assert ((terms >= 0) & (terms < 2**32 - 1)).all()
    assert (np.isfinite(weights) & (weights > 0)).all()


def test_terms_are_the_same_in_another_process() -> None:
    code = (
        "from pipelines.lexical import document_vector; from pipelines.config import LexicalConfig;"
        "print(document_vector('stable hashing', LexicalConfig())[0].tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert other == str(document_vector("stable hashing", LexicalConfig())[0].tolist())


def test_every_option_changes_the_fingerprint() -> None:
    variants = [
        LexicalConfig(),
        LexicalConfig(k1=1.0),
        LexicalConfig(b=0.5),
        LexicalConfig(average_length=91),
        LexicalConfig(stemmer="none"),
    ]
    assert len({analyzer_fp(config) for config in variants}) == len(variants)
    assert analyzer_fp(LexicalConfig()) == analyzer_fp(LexicalConfig())
