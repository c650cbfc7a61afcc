"""What the encoder asks of a loaded model, whichever library computes it, and how it uses the cores.

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
    streams: int  # batches that may be computed at the same time

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, special tokens included, cut at `max_tokens`."""

    def forward(self, ids: Sequence[TokenIds]) -> Vectors:
        """Pooled vectors of one batch, float32, shape (len(ids), dimension); length and finiteness are not checked.

        Raises:
            RuntimeError: the batch cannot be computed, for want of memory for example.
        """

    def begin_stream(self) -> None:
        """Called first in each thread that computes batches beside others."""

    def end_streams(self) -> None:
        """Called when those threads have ended."""


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


class TorchThreads:
    """How torch spreads over the cores: many batches, each on one core.

    One batch on several cores makes them wait for each other after every operation, spinning; two cores that others
    used too took twice the processor time for the same batches that way, and a batch a core none.
    """

    def __init__(self) -> None:
        import torch

        self.streams = cores_to_use()
        torch.set_num_threads(self.streams)  # a batch that is alone gets all

    def begin_stream(self) -> None:
        """Keep what this thread computes on one core."""
        import torch

        torch.set_num_threads(1)

    def end_streams(self) -> None:
        """Give a batch that is alone all cores again: torch keeps one number for the whole process."""
        import torch

        torch.set_num_threads(self.streams)


def cores_to_use() -> int:
    """OMP_NUM_THREADS where it is set, else the available cores."""
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    return int(chosen) if chosen.isdigit() and int(chosen) else available_cores()


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
