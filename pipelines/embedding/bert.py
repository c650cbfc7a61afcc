"""The forward pass of BERT-shaped sentence encoders with mean pooling, all-MiniLM-L6-v2 among them.

The arithmetic is that of sentence-transformers' modules for the same files (a test compares them); what differs is
what is not computed. Measured on two cores of a Zen 5 EPYC, where the linear layers are 60% of the time:

- The texts of a batch lie one after the other, not in a padded rectangle: the linear layers see real tokens only, and
  attention runs once for each group of texts of equal length. There is neither padding nor a mask.
- Linear layers run through oneDNN with weights reordered once. torch's own float32 route is MKL, which on AMD
  computes at 200 GFLOP/s where oneDNN reaches 470; bfloat16 reaches 940. GELU is fused into the product.
- In bfloat16 only products and attention are rounded; the residual stream and layer norms stay float32.
- Neither transformers nor sentence-transformers is imported, which is most of the time until a first query is answered.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.embedding.runtime import ModelTokens, TokenIds, TorchThreads, Vectors, read_json

if TYPE_CHECKING:
    from torch import Tensor

# Attention scores of this many tokens at a time stay in the cache; measured 8% faster than 2,048, 20% than 4,096.
_ATTENTION_TOKENS = 512
_ROWS_HINT = 2_048  # rows of a typical product, for oneDNN's choice of a weight layout
# A product is prepared for one number of rows, which takes 5 ms, and torch and oneDNN keep 1,024 of them, which are
# 1 GB. So the rows of a batch are filled up to few different numbers, and few products are kept. The variables are read
# when the first product is computed.
_KEPT_PRODUCTS = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
_ROWS_STEP = 64


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: _Linear
    attended: _Linear
    attended_norm: tuple[Tensor, Tensor]
    widened: _Linear
    narrowed: _Linear
    norm: tuple[Tensor, Tensor]


class BertRuntime(TorchThreads):
    """A BERT encoder with mean pooling, read straight from its safetensors file."""

    def __init__(self, folder: Path, dtype: str, *, max_tokens: int) -> None:
        """Read the weights and reorder them.

        Args:
            folder: a model folder for which `is_supported` holds.
            dtype: "float32" or "bfloat16", of products and attention.
            max_tokens: longest text that it reads, special tokens included.
        """
        for name, value in _KEPT_PRODUCTS.items():
            os.environ.setdefault(name, value)
        import torch
        from safetensors.torch import load_file

        super().__init__()
        config = read_json(folder / "config.json")
        self.max_tokens = max_tokens
        self.dimension: int = config["hidden_size"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon: float = config.get("layer_norm_eps", 1e-12)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self.tokenize = ModelTokens(folder, max_tokens)
        loaded = load_file(folder / "model.safetensors")
        weights = {name.removeprefix("bert."): tensor.float() for name, tensor in loaded.items()}
        packed = _can_pack(self._dtype)
        self._words = weights["embeddings.word_embeddings.weight"]
        self._positions = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = _pair(weights, "embeddings.LayerNorm")
        self._layers = [
            self._layer(weights, f"encoder.layer.{number}.", packed) for number in range(config["num_hidden_layers"])
        ]

    def forward(self, ids: Sequence[TokenIds]) -> Vectors:
        """Mean of the last layer over each text's tokens; texts of equal length should be neighbours."""
        import torch
        from torch.nn.functional import embedding, layer_norm

        runs = list(_runs([len(one) for one in ids]))
        shape, epsilon = (self.dimension,), self._epsilon
        with torch.inference_mode():
            count = sum(map(len, ids))
            places = np.zeros((2, _filled_up(count)), np.int64)
            places[0, :count] = np.fromiter(chain.from_iterable(ids), np.int64, count)
            places[1, :count] = np.concatenate([np.arange(len(one)) for one in ids])
            tokens, positions = torch.from_numpy(places)
            hidden = embedding(tokens, self._words).add_(embedding(positions, self._positions))
            hidden = layer_norm(hidden, shape, *self._norm, epsilon)
            for layer in self._layers:
                context = self._attend(layer.qkv(hidden.to(self._dtype)), runs)
                hidden = layer_norm(hidden.add_(layer.attended(context)), shape, *layer.attended_norm, epsilon)
                wide = layer.widened(hidden.to(self._dtype), gelu=True)
                hidden = layer_norm(hidden.add_(layer.narrowed(wide)), shape, *layer.norm, epsilon)
            pooled = [
                hidden[start : start + rows * length].view(rows, length, -1).mean(1) for start, rows, length in runs
            ]
            vectors: Vectors = torch.cat(pooled).numpy()
        return vectors

    def _attend(self, qkv: Tensor, runs: list[tuple[int, int, int]]) -> Tensor:
        """Attention of every text to itself. Queries come scaled, so that scores need no factor."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        heads, width = self._heads, self.dimension // self._heads
        context = torch.zeros(qkv.shape[0], self.dimension, dtype=qkv.dtype)  # rows of no text stay zero
        for start, rows, length in runs:
            end = start + rows * length
            parts = qkv[start:end].view(rows, length, 3, heads, width).permute(2, 0, 3, 1, 4)
            target = context[start:end].view(rows, length, heads, width).transpose(1, 2)
            if self._dtype == torch.float32:
                target.copy_(scaled_dot_product_attention(parts[0], parts[1], parts[2], scale=1.0))
                continue
            # Plain products: torch's fused attention takes twice the time in bfloat16 for heads as narrow as these.
            step = max(1, _ATTENTION_TOKENS // length)
            for row in range(0, rows, step):
                some = parts[:, row : row + step]
                queries, keys, values = some.reshape(3, -1, length, width)
                scores = torch.bmm(queries, keys.transpose(1, 2))
                mixed = torch.bmm(torch.softmax(scores, -1), values)
                target[row : row + step] = mixed.view(some.shape[1:])
        return context

    def _layer(self, weights: Mapping[str, Tensor], prefix: str, packed: bool) -> _Layer:
        import torch

        def linear(weight: Tensor, bias: Tensor) -> _Linear:
            return _Linear(weight.to(self._dtype), bias.to(self._dtype), packed=packed)

        query, key, value = (_pair(weights, f"{prefix}attention.self.{name}") for name in ("query", "key", "value"))
        scale = (self.dimension // self._heads) ** -0.5
        return _Layer(
            qkv=linear(
                torch.cat([query[0] * scale, key[0], value[0]]), torch.cat([query[1] * scale, key[1], value[1]])
            ),
            attended=linear(*_pair(weights, prefix + "attention.output.dense")),
            attended_norm=_pair(weights, prefix + "attention.output.LayerNorm"),
            widened=linear(*_pair(weights, prefix + "intermediate.dense")),
            narrowed=linear(*_pair(weights, prefix + "output.dense")),
            norm=_pair(weights, prefix + "output.LayerNorm"),
        )


class _Linear:
    """A linear layer: through oneDNN with reordered weights where this torch has it, else torch's own."""

    def __init__(self, weight: Tensor, bias: Tensor, *, packed: bool) -> None:
        import torch

        self._packed = packed
        self._bias = bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT) if packed else weight

    def __call__(self, rows: Tensor, *, gelu: bool = False) -> Tensor:
        import torch

        if self._packed:
            # The exact GELU (erf); its other form would be named "tanh".
            name, form = ("gelu", "none") if gelu else ("none", "")
            found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, name, [], form)
            return found
        found = torch.nn.functional.linear(rows, self._weight, self._bias)
        return torch.nn.functional.gelu(found) if gelu else found


def _filled_up(rows: int) -> int:
    """Rows with those of no text at the end: 1% more in a full batch, and up to a multiple of 8 in a short one."""
    step = _ROWS_STEP if rows > 16 * _ROWS_STEP else 8
    return -(-rows // step) * step


def is_supported(folder: Path) -> bool:
    """Whether a model folder is exactly what this module computes; every other goes to sentence-transformers."""
    bert = read_json(folder / "config.json") or {}
    sentence = read_json(folder / "sentence_bert_config.json") or {}
    prompts = read_json(folder / "config_sentence_transformers.json") or {}
    modules = read_json(folder / "modules.json") or []
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    return (
        kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
        and modules[0]["path"] == ""
        and _is_mean(read_json(folder / modules[1]["path"] / "config.json") or {})
        and bert.get("model_type") == "bert"
        and bert.get("hidden_act") == "gelu"
        and bert.get("position_embedding_type", "absolute") == "absolute"
        and not bert.get("is_decoder")
        and not sentence.get("do_lower_case")
        and not prompts.get("default_prompt_name")
        and all((folder / name).is_file() for name in ("model.safetensors", "tokenizer.json"))
    )


def _is_mean(pooling: dict[str, Any]) -> bool:
    """Mean pooling and nothing else, in the files' newer or older spelling."""
    if "pooling_mode" in pooling:
        return bool(pooling["pooling_mode"] == "mean")
    return [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value] == [
        "pooling_mode_mean_tokens"
    ]


def _can_pack(dtype: Any) -> bool:
    """Whether this torch and CPU have oneDNN's fused linear layer, tried on a small product."""
    import torch

    with torch.inference_mode():
        numbers = torch.linspace(-1, 1, 64 * 64).view(64, 64).to(dtype)
        bias = numbers[0]
        try:
            found = _Linear(numbers, bias, packed=True)(numbers, gelu=True)
        except (AttributeError, RuntimeError):  # built without oneDNN, or without this type on this CPU
            return False
        expected = torch.nn.functional.gelu(torch.nn.functional.linear(numbers, numbers, bias))
        return bool(torch.allclose(found.float(), expected.float(), rtol=0.02, atol=0.02))


def _pair(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return weights[name + ".weight"], weights[name + ".bias"]


def _runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of equal length as (first token, texts, tokens a text)."""
    start = 0
    for length, group in groupby(lengths):
        rows = sum(1 for _ in group)
        yield start, rows, length
        start += rows * length
