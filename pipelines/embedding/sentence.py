"""Any other sentence-transformers model: that library's own modules, fed with our batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.embedding.runtime import TokenIds, TorchThreads, Vectors


def load_sentence_transformer(folder: Path, dtype: str) -> Any:
    """sentence-transformers' model of a local folder: safetensors only, no code from the folder, no network."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return SentenceTransformer(
        str(folder),
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"dtype": getattr(torch, dtype), "use_safetensors": True},
    ).eval()


class SentenceRuntime(TorchThreads):
    """A model run by sentence-transformers, padded to the longest text of each batch."""

    def __init__(self, folder: Path, dtype: str) -> None:
        """Load the model."""
        super().__init__()
        self._model = load_sentence_transformer(folder, dtype)
        self._tokenizer = self._model.tokenizer
        self._prompt: str = (self._model.prompts or {}).get(self._model.default_prompt_name, "")
        self.max_tokens = int(self._model.max_seq_length)
        self.dimension = int(self._model.get_embedding_dimension())

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids by the model's own tokenizer, after its default prompt if it has one."""
        prompted = [self._prompt + text for text in texts]
        found = self._tokenizer(prompted, truncation=True, max_length=self.max_tokens, padding=False)
        ids: list[TokenIds] = found["input_ids"]
        return ids

    def forward(self, ids: Sequence[TokenIds]) -> Vectors:
        """The model's sentence embeddings of one batch."""
        import torch

        padded, mask = pad(ids, self._tokenizer.pad_token_id or 0)
        features = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
        if "token_type_ids" in self._tokenizer.model_input_names:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        with torch.inference_mode():
            vectors: Vectors = self._model(features)["sentence_embedding"].float().numpy()
        return vectors


def pad(ids: Sequence[TokenIds], filler: int) -> tuple[Any, Any]:
    """Token ids and attention mask of one batch: int64, shape (texts, longest)."""
    shape = (len(ids), max(map(len, ids)))
    padded, mask = np.full(shape, filler, np.int64), np.zeros(shape, np.int64)
    for row, one in enumerate(ids):
        padded[row, : len(one)] = one
        mask[row, : len(one)] = 1
    return padded, mask
