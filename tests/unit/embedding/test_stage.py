from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import EncoderConfig
from pipelines.embedding import stage as stage_module
from pipelines.embedding.encoder import load_encoder
from pipelines.embedding.stage import encode_stage
from pipelines.lake.schemas import EMBEDDINGS

CONFIG = EncoderConfig(dtype="float32")


def batch(*texts: str) -> pa.RecordBatch:
    return pa.record_batch({"text_hash": [f"hash of {text}" for text in texts], "text": list(texts)})


def test_rows_fit_the_table_and_keep_their_order() -> None:
    found = list(encode_stage(CONFIG)(iter([batch("one", "a second text", "three"), batch("four")])))
    table = pa.Table.from_batches(found)
    assert table.select(EMBEDDINGS.names).cast(EMBEDDINGS).num_rows == 4
    assert table["text_hash"].to_pylist() == ["hash of one", "hash of a second text", "hash of three", "hash of four"]
    assert table["error"].null_count == 4
    encoder = load_encoder(CONFIG)
    assert set(table["model_fp"].to_pylist()) == {encoder.model_fp}
    vectors = np.array(table["vector"].to_pylist())
    assert np.allclose(vectors, encoder.encode(["one", "a second text", "three", "four"]), atol=1e-5)


def test_batches_are_streamed() -> None:
    taken: list[int] = []

    def inputs() -> Iterator[pa.RecordBatch]:
        for number in range(3):
            taken.append(number)
            yield batch(f"text {number}")

    outputs = encode_stage(CONFIG)(inputs())
    next(outputs)
    assert taken == [0]


def test_an_empty_batch_gives_an_empty_batch() -> None:
    empty = batch("x").slice(0, 0)
    assert [found.num_rows for found in encode_stage(CONFIG)(iter([empty]))] == [0]
    assert list(encode_stage(CONFIG)(iter([]))) == []


def test_no_input_loads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "encoder_for", None)
    assert list(encode_stage(CONFIG)(iter([]))) == []


def test_a_text_without_a_vector_comes_with_its_reason_and_never_with_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = load_encoder(CONFIG)
    forward = encoder._runtime.forward
    marked = encoder._runtime.tokenize(["damaged"])[0]

    def poisoned(ids: list[list[int]]) -> np.ndarray:
        vectors = forward(ids).copy()
        vectors[[list(one) == list(marked) for one in ids]] = np.inf
        return vectors

    monkeypatch.setattr(encoder._runtime, "forward", poisoned)
    (found,) = encode_stage(CONFIG)(iter([batch("good", "damaged", "also good")]))
    assert found["error"].is_null().to_pylist() == [True, False, True]
    assert found["vector"].is_null().to_pylist() == [False, True, False]


def test_the_stage_can_be_sent_to_a_worker() -> None:
    stage = encode_stage(CONFIG)
    assert pickle.loads(pickle.dumps(stage)) == stage
