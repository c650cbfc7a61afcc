"""What the encoder asks of a loaded model, whichever library computes it, and the cores it may use.

The implementations are `bert` (our own forward pass for the BERT family), `sentence` (sentence-transformers' modules,
for every other model) and `openvino_runtime` (the optional extra).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
TokenIds = Sequence[int]


class Runtime(Protocol):
    """One loaded model."""

    max_tokens: int
    dimension: int

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, special tokens included, cut at `max_tokens`."""

    def forward(self, ids: Sequence[TokenIds]) -> Vectors:
        """Pooled vectors of one batch, float32, shape (len(ids), dimension); length and finiteness are not checked.

        Raises:
            RuntimeError: the batch cannot be computed, for want of memory for example.
        """


class ModelTokens:
    """Turns texts into the model's token ids, without transformers. Safe to use from several threads."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def __call__(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, special tokens included, cut at the limit."""
        return [encoded.ids for encoded in self._tokenizer.encode_batch_fast(list(texts))]


def use_available_cores() -> None:
    """Let torch use as many threads as there are cores for this process; OMP_NUM_THREADS decides where it is set."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(available_cores())


def available_cores(control_group: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: its affinity, and the quota of its container, which torch does not see."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = control_group.read_text(encoding="ascii").split()
        return min(affinity, max(1, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max": no quota
        return affinity


def read_json(path: Path) -> Any:
    """The JSON value in that file, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
