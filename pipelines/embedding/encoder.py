"""Texts to vectors: sentence-transformers' own modules, fed with batches that are packed by a token budget."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.config import EncoderConfig
from pipelines.embedding.model import described_config, model_fp, resolve_dtype
from pipelines.embedding.tokenizer import model_folder
from pipelines.errors import ConfigError, EncodeError

Vectors = npt.NDArray[np.float32]
Forward = Callable[[Sequence[str]], Vectors]
Progress = Callable[[int, int], None]


class Encoder:
    """One loaded model.

    Attributes:
        model_fp: what its vectors are keyed by.
        dimension: length of its vectors.
        max_tokens: longest text that it reads, special tokens included.
    """

    def __init__(self, config: EncoderConfig) -> None:
        """Load the model from local files.

        Raises:
            ConfigError: the model or the backend is not installed.
        """
        self.model_fp = model_fp(config)
        self._budget = config.token_budget
        self._model = _load(config)
        self._tokenizer = self._model.tokenizer
        self.max_tokens = int(self._model.max_seq_length)
        self.dimension = int(self._model.get_embedding_dimension())

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> Vectors:
        """Vectors of texts: float32, shape (n, dimension), unit length, in the order of the texts.

        Raises:
            EncodeError: a text has no finite vector; the message names it.
        """
        vectors, errors = self.try_encode(texts, progress=progress)
        if errors:
            position, reason = next(iter(errors.items()))
            raise EncodeError(f"text {position} of {len(texts)} ({texts[position][:60]!r}): {reason}")
        return vectors

    def try_encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> tuple[Vectors, dict[int, str]]:
        """Like `encode`, with the reason for each position that has no vector; its row is not to be used."""
        vectors = np.full((len(texts), self.dimension), np.nan, np.float32)
        errors: dict[int, str] = {}
        ids = self._tokenize(texts)
        done = 0
        for batch in pack([len(one) for one in ids], self._budget):
            self._encode_batch(batch, ids, vectors, errors)
            done += len(batch)
            if progress:
                progress(done, len(texts))
        return vectors, errors

    def _encode_batch(self, batch: list[int], ids: list[list[int]], vectors: Vectors, errors: dict[int, str]) -> None:
        """Encode one batch; when it fails, halve it until the bad text is alone."""
        reason = ""
        try:
            found = self._forward([ids[i] for i in batch])
            norms = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
            good = (np.isfinite(norms) & (norms > 0)).all()
            if good:
                vectors[batch] = found / norms
                return
            reason = "the model gave a vector that is zero or not finite"
        except RuntimeError as error:  # what torch raises for a batch that it cannot compute, memory included
            reason = f"the model failed: {error}"
        if len(batch) == 1:
            errors[batch[0]] = reason
            return
        half = len(batch) // 2
        self._encode_batch(batch[:half], ids, vectors, errors)
        self._encode_batch(batch[half:], ids, vectors, errors)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        found = self._tokenizer(list(texts), truncation=True, max_length=self.max_tokens, padding=False)
        ids: list[list[int]] = found["input_ids"]
        return ids

    def _forward(self, ids: list[list[int]]) -> Vectors:
        """Pooled vectors of one padded batch, before normalisation is checked."""
        import torch

        longest = max(len(one) for one in ids)
        padded = np.full((len(ids), longest), self._tokenizer.pad_token_id or 0, np.int64)
        mask = np.zeros((len(ids), longest), np.int64)
        for row, one in enumerate(ids):
            padded[row, : len(one)] = one
            mask[row, : len(one)] = 1
        features = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
        if "token_type_ids" in self._tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        with torch.inference_mode():
            pooled = self._model(features)["sentence_embedding"]
        vectors: Vectors = pooled.float().numpy()
        return vectors


def pack(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in batches of similar length, longest first: rows times the longest of a batch stay within `budget`.

    A text that alone passes the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


@lru_cache(maxsize=2)
def load_encoder(config: EncoderConfig) -> Encoder:
    """The encoder of a configuration, loaded once a process.

    Raises:
        ConfigError: the model or the backend is not installed.
    """
    return Encoder(config)


def load_described(record: dict[str, Any]) -> Encoder:
    """The encoder that a snapshot records, for its queries.

    Raises:
        IndexMismatch: the model's files here are other ones.
        ConfigError: the model is not installed here.
    """
    return load_encoder(described_config(record))


def _load(config: EncoderConfig) -> Any:
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if config.backend == "openvino":
        return _load_openvino(config)
    # Denormal numbers cost a hundred times an addition on many CPUs and change no result that anybody could see.
    torch.set_flush_denormal(True)
    return SentenceTransformer(
        str(model_folder(config)),
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"dtype": getattr(torch, resolve_dtype(config)), "use_safetensors": True},
    ).eval()


def _load_openvino(config: EncoderConfig) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        import optimum.intel  # noqa: F401 - what sentence-transformers needs for this backend
    except ImportError as error:
        raise ConfigError(
            "encoder.backend: openvino is not installed; run `pip install 'lockstep[openvino]'`, or use backend: torch"
        ) from error
    hint = "bf16" if resolve_dtype(config) == "bfloat16" else "f32"
    return SentenceTransformer(
        str(model_folder(config)),
        device="cpu",
        backend="openvino",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"ov_config": {"INFERENCE_PRECISION_HINT": hint}},
    )
