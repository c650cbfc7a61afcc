"""`encode_stage`: text hashes and texts in, rows of the `embeddings` table out, and the reasons of those without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.config import EncoderConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.lake.schemas import EMBEDDINGS

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]

OUTPUT = pa.schema([*(field.with_nullable(True) for field in EMBEDDINGS), pa.field("error", pa.string())])


def encode_stage(config: EncoderConfig) -> Stage:
    """A stage that encodes texts. Input batches have `text_hash` and `text`.

    Output batches have the columns of the embeddings table and `error`, which is null for a row with a vector. The
    model is loaded with the first batch.
    """
    return _EncodeStage(config)


@dataclass(frozen=True, slots=True)
class _EncodeStage:
    config: EncoderConfig

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        encoder = None
        for batch in batches:
            encoder = encoder or load_encoder(self.config)
            vectors, errors = encoder.try_encode(batch["text"].to_pylist())
            rows = len(vectors)
            failed = np.isin(np.arange(rows), list(errors))
            lists = pa.ListArray.from_arrays(
                pa.array(np.arange(rows + 1, dtype=np.int32) * encoder.dimension),
                pa.array(vectors.reshape(-1), pa.float32()),
                mask=pa.array(failed),
            )
            yield pa.RecordBatch.from_arrays(
                [
                    batch["text_hash"],
                    pa.array([encoder.model_fp] * rows, pa.string()),
                    lists,
                    pa.array([errors.get(row) for row in range(rows)], pa.string()),
                ],
                schema=OUTPUT,
            )
