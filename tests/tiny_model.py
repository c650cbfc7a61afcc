"""A sentence-transformers model small enough for tests: one random BERT layer, and a vocabulary of single characters.

Its vectors mean nothing, but they are finite, of unit length, different for different texts, and the same on every run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

DIMENSION = 32
MAX_TOKENS = 128
_INNER = 64
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("the", "a", "of", "and", "is", "are", "in", "to", "for", "day", "days", "year", "staff", "leave")


def write_tiny_model(folder: Path, *, seed: int = 7, dimension: int = DIMENSION) -> Path:
    """Write the model's files into a new folder and return it; another seed is another model."""
    (folder / "1_Pooling").mkdir(parents=True)
    vocabulary = _vocabulary()
    _write(folder / "modules.json", _modules())
    _write(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": dimension, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
    )
    _write(
        folder / "config.json",
        {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": "gelu",
            "hidden_size": dimension,
            "intermediate_size": _INNER,
            "max_position_embeddings": MAX_TOKENS,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "pad_token_id": 0,
            "type_vocab_size": 2,
            "vocab_size": len(vocabulary),
        },
    )
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_TOKENS}
        | {f"{token[1:-1].lower()}_token": token for token in _SPECIAL},
    )
    _tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    save_file(_weights(len(vocabulary), dimension, seed), str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def _vocabulary() -> list[str]:
    characters = sorted({chr(code).lower() for code in range(33, 127)})
    return [*_SPECIAL, *characters, *(f"##{one}" for one in characters), *(w for w in _WORDS if w not in characters)]


def _tokenizer(vocabulary: list[str]) -> Tokenizer:
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])],
    )
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def _weights(words: int, dimension: int, seed: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    random = np.random.default_rng(seed)
    weights: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}

    def table(name: str, rows: int) -> None:
        weights[f"embeddings.{name}.weight"] = random.normal(0, 1, (rows, dimension)).astype(np.float32)

    def dense(name: str, outputs: int, inputs: int) -> None:
        weights[f"{name}.weight"] = random.normal(0, 0.2, (outputs, inputs)).astype(np.float32)
        weights[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.LayerNorm.weight"] = np.ones(dimension, np.float32)
        weights[f"{name}.LayerNorm.bias"] = np.zeros(dimension, np.float32)

    table("word_embeddings", words)
    table("position_embeddings", MAX_TOKENS)
    table("token_type_embeddings", 2)
    norm("embeddings")
    layer = "encoder.layer.0"
    for name in ("query", "key", "value"):
        dense(f"{layer}.attention.self.{name}", dimension, dimension)
    dense(f"{layer}.attention.output.dense", dimension, dimension)
    norm(f"{layer}.attention.output")
    dense(f"{layer}.intermediate.dense", _INNER, dimension)
    dense(f"{layer}.output.dense", dimension, _INNER)
    norm(f"{layer}.output")
    dense("pooler.dense", dimension, dimension)
    return weights


def _modules() -> list[dict[str, object]]:
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    return [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(paths.items())
    ]


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
