"""`encode_stage`: text hashes and texts in, rows of the `embeddings` table out, and the reasons of those without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.config import EncoderConfig
from pipelines.embedding.warm import encoder_for
from pipelines.lake.schemas import EMBEDDINGS

Stage = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]

OUTPUT = pa.schema([*(field.with_nullable(True) for field in EMBEDDINGS), pa.field("error", pa.string())])


def encode_stage(config: EncoderConfig, *, texts: int | None = None) -> Stage:
    """A stage that encodes texts. Input batches have `text_hash` and `text`.

    Output batches have the columns of the embeddings table and `error`, which is null for a row with a vector. The
    model is loaded with the first batch.

    Args:
        config: the encoder.
        texts: how many there will be in all, which decides where few of them are encoded; None: not known, many.
    """
    return _EncodeStage(config, texts)


@dataclass(frozen=True, slots=True)
class _EncodeStage:
    config: EncoderConfig
    texts: int | None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        encoder = None
        for batch in batches:
            encoder = encoder or encoder_for(self.config, texts=self.texts)
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
