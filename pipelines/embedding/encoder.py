"""Texts to vectors: batches packed by a token budget, every vector finite and of unit length, or a reason why not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock

import numpy as np

from pipelines.config import EncoderConfig
from pipelines.embedding.model import Dtype, dimension, files_hash, model_fp, resolve_dtype
from pipelines.embedding.runtime import Runtime, TokenIds, Vectors
from pipelines.embedding.tokenizer import load_tokenizer, model_folder
from pipelines.errors import EncodeError

_MOST_LOADED = 2  # models a process: today's, and that of the live snapshot while another is built
_LOADED: dict[tuple[str, int], Encoder] = {}
_LOADING = Lock()


class Encoding(ABC):
    """One model, wherever it is loaded.

    Attributes:
        model_fp: what its vectors are keyed by.
        dimension: length of its vectors.
    """

    model_fp: str
    dimension: int

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """The longest text that it reads, special tokens included."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts: float32, shape (n, dimension), unit length, in the order of the texts.

        No text gives an array of shape (0, dimension).

        Raises:
            EncodeError: a text has no finite vector; the message names it.
        """
        vectors, errors = self.try_encode(texts)
        if errors:
            position, reason = min(errors.items())
            raise EncodeError(
                f"encoding text {position} of {len(texts)} ({texts[position][:60]!r}): {reason}; "
                "leave that text out, or look at what it holds"
            )
        return vectors

    @abstractmethod
    def try_encode(self, texts: Sequence[str]) -> tuple[Vectors, dict[int, str]]:
        """Like `encode`, with the reason for each position that has no vector; its row is NaN."""


class Encoder(Encoding):
    """A model that is loaded in this process."""

    def __init__(self, runtime: Runtime, *, model_fp: str, token_budget: int) -> None:
        """Wrap a loaded model; `load_encoder` is the way to one."""
        self.model_fp = model_fp
        self.dimension = runtime.dimension
        self._runtime = runtime
        self._budget = token_budget

    @property
    def max_tokens(self) -> int:
        """See `Encoding`."""
        return self._runtime.max_tokens

    def try_encode(self, texts: Sequence[str]) -> tuple[Vectors, dict[int, str]]:
        """See `Encoding`."""
        vectors = np.full((len(texts), self.dimension), np.nan, np.float32)
        errors: dict[int, str] = {}
        ids = self._runtime.tokenize(texts) if texts else []
        lengths = [len(one) for one in ids]
        # Few texts are spread over all cores; a batch below 128 tokens would not repay the thread.
        budget = min(self._budget, max(128, -(-sum(lengths) // self._runtime.streams)))
        batches = list(pack(lengths, budget))
        self._run(batches, lambda batch: self._encode_batch(batch, ids, vectors, errors))
        return vectors, errors

    def _run(self, batches: list[list[int]], encode: Callable[[list[int]], None]) -> None:
        """Encode all batches, as many at a time as the runtime has streams."""
        streams = min(self._runtime.streams, len(batches))
        if streams <= 1:
            for batch in batches:
                encode(batch)
            return
        pool = ThreadPoolExecutor(streams, "encode", initializer=self._runtime.begin_stream)
        try:
            for future in as_completed([pool.submit(encode, batch) for batch in batches]):
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)
            self._runtime.end_streams()

    def _encode_batch(self, batch: list[int], ids: list[TokenIds], vectors: Vectors, errors: dict[int, str]) -> None:
        """Encode one batch; when it fails, halve it until the bad text is alone."""
        try:
            found = self._runtime.forward([ids[position] for position in batch])
            norms = np.linalg.norm(found.astype(np.float64), axis=1, keepdims=True)
            if (np.isfinite(norms) & (norms > 0)).all():
                vectors[batch] = found / norms
                return
            reason = "the model gave a vector that is zero or not finite"
        except RuntimeError as error:  # what torch and OpenVINO raise for a batch they cannot compute, memory included
            reason = f"the model failed: {error}"
        if len(batch) == 1:
            errors[batch[0]] = reason
            return
        half = len(batch) // 2
        self._encode_batch(batch[:half], ids, vectors, errors)
        self._encode_batch(batch[half:], ids, vectors, errors)


def pack(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Positions in batches of similar length, longest first: rows times the longest of a batch stay within `budget`.

    A text that alone passes the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def load_encoder(config: EncoderConfig) -> Encoder:
    """The encoder of a configuration, loaded once a process.

    Raises:
        ConfigError: the model or the backend is not installed.
    """
    key = _key(config)
    with _LOADING:
        if key not in _LOADED:
            dtype = resolve_dtype(config)
            runtime = _runtime(config, model_folder(config), dtype)
            while len(_LOADED) >= _MOST_LOADED:
                del _LOADED[next(iter(_LOADED))]
            _LOADED[key] = Encoder(runtime, model_fp=key[0], token_budget=config.token_budget)
        return _LOADED[key]


def loaded(config: EncoderConfig) -> bool:
    """Whether this process has that encoder loaded."""
    return _key(config) in _LOADED


def _key(config: EncoderConfig) -> tuple[str, int]:
    return model_fp(config), config.token_budget


def _runtime(config: EncoderConfig, folder: Path, dtype: Dtype) -> Runtime:
    from pipelines.embedding.bert import BertRuntime, is_supported
    from pipelines.embedding.openvino_runtime import OpenVinoRuntime
    from pipelines.embedding.sentence import SentenceRuntime

    max_tokens = load_tokenizer(config).max_tokens
    if config.backend == "openvino":
        files = files_hash(folder)
        return OpenVinoRuntime(folder, dtype, files=files, dimension=dimension(config), max_tokens=max_tokens)
    if is_supported(folder):
        return BertRuntime(folder, dtype, max_tokens=max_tokens)
    return SentenceRuntime(folder, dtype)
