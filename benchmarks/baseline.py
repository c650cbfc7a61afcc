"""The yardstick: sentence-transformers' own `encode` with its defaults (float32, batches of 32), nothing around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pipelines.config import EncoderConfig
from pipelines.embedding.tokenizer import model_folder


class Bare:
    """The default model as any user of sentence-transformers gets it, loaded from the installed package."""

    def __init__(self) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        # The library switches this on for its own encoder; here the process is as sentence-transformers leaves it.
        torch.set_flush_denormal(False)
        self._model: Any = SentenceTransformer(str(model_folder(EncoderConfig())), device="cpu")
        self._model.encode(["warm up"] * 4, show_progress_bar=False)

    def seconds(self, texts: Sequence[str]) -> float:
        """How long the encoding of these texts takes, by the clock."""
        import torch

        torch.set_flush_denormal(False)
        started = time.perf_counter()
        self._model.encode(list(texts), show_progress_bar=False)
        elapsed = time.perf_counter() - started
        torch.set_flush_denormal(True)
        return elapsed
