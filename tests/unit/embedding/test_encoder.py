from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from pipelines.embedding.encoder import Encoder, pack
from pipelines.embedding.runtime import TokenIds, Vectors
from pipelines.errors import EncodeError

BAD, FATAL, ZERO = 901, 902, 903


class Recording:
    """A runtime whose vector of a text is its first token and its length; marked tokens make it fail."""

    max_tokens = 1_000
    dimension = 3

    def __init__(self, streams: int = 1) -> None:
        self.streams = streams
        self.batches: list[list[int]] = []
        self.begun: set[int] = set()
        self.ended = 0

    def begin_stream(self) -> None:
        self.begun.add(threading.get_ident())

    def end_streams(self) -> None:
        self.ended += 1

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        return [[int(word) for word in text.split()] for text in texts]

    def forward(self, ids: Sequence[TokenIds]) -> Vectors:
        self.batches.append([len(one) for one in ids])
        if any(FATAL in one for one in ids):
            raise RuntimeError("no memory")
        vectors = np.array([[one[0], len(one), 1] for one in ids], np.float32)
        vectors[[BAD in one for one in ids]] = np.nan
        vectors[[ZERO in one for one in ids]] = 0
        return vectors


def encoder(runtime: Recording, budget: int = 100) -> Encoder:
    return Encoder(runtime, model_fp="fp", token_budget=budget)


def text(first: int, length: int = 10) -> str:
    return " ".join([str(first)] * length)


def test_vectors_come_in_the_order_of_the_texts_and_have_unit_length() -> None:
    lengths = [3, 30, 7, 30, 1]
    vectors = encoder(Recording()).encode([text(5 + n, length) for n, length in enumerate(lengths)])
    assert vectors.dtype == np.float32
    assert np.allclose(vectors[:, 0] / vectors[:, 2], [5, 6, 7, 8, 9], rtol=1e-5)
    assert np.allclose(vectors[:, 1] / vectors[:, 2], lengths, rtol=1e-5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_text_gives_no_vector_and_does_not_touch_the_model() -> None:
    runtime = Recording()
    assert encoder(runtime).encode([]).shape == (0, 3)
    assert runtime.batches == []


def test_batches_hold_similar_lengths_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200).tolist()
    batches = list(pack(lengths, 128))
    assert sorted(position for batch in batches for position in batch) == list(range(200))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 128 for batch in batches)
    flat = [lengths[i] for batch in batches for i in batch]
    assert flat == sorted(lengths, reverse=True)


def test_a_text_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    assert list(pack([5, 500, 5], 100)) == [[1], [0, 2]]


@pytest.mark.parametrize(
    ("mark", "reason"), [(BAD, "not finite"), (ZERO, "zero"), (FATAL, "no memory")], ids=["nan", "zero", "raises"]
)
def test_a_failing_batch_is_halved_until_the_bad_text_is_alone(mark: int, reason: str) -> None:
    runtime = Recording()
    texts = [text(n) for n in range(1, 9)]
    texts[5] = text(mark)
    vectors, errors = encoder(runtime).try_encode(texts)
    assert list(errors) == [5]
    assert reason in errors[5]
    assert np.isnan(vectors[5]).all()
    assert np.isfinite(np.delete(vectors, 5, axis=0)).all()
    assert [len(batch) for batch in runtime.batches] == [8, 4, 4, 2, 1, 1, 2]


def test_encode_names_the_first_text_without_a_vector() -> None:
    with pytest.raises(EncodeError, match=r"text 1 of 3 \('901 901.*not finite"):
        encoder(Recording()).encode([text(1), text(BAD), text(BAD, 20)])


def test_streams_share_the_batches_and_give_the_same_vectors() -> None:
    texts = [text(1 + n % 7, 1 + n % 40) for n in range(300)]
    texts[17] = text(BAD, 30)
    alone, failed = encoder(Recording()).try_encode(texts)
    runtime = Recording(streams=3)
    vectors, errors = encoder(runtime).try_encode(texts)
    assert np.array_equal(vectors, alone, equal_nan=True)
    assert errors == failed
    assert 1 <= len(runtime.begun) <= 3
    assert runtime.ended == 1


def test_few_texts_are_spread_over_the_streams() -> None:
    runtime = Recording(streams=2)
    encoder(runtime, budget=10_000).encode([text(1, 100)] * 6)
    assert sorted(len(batch) for batch in runtime.batches) == [3, 3]


def test_a_failure_that_is_no_texts_fault_ends_the_encoding() -> None:
    class Broken(Recording):
        def forward(self, ids: Sequence[TokenIds]) -> Vectors:
            raise KeyError("a defect")

    with pytest.raises(KeyError):
        encoder(Broken(streams=2)).encode([text(1, 100)] * 6)
