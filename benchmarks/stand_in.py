"""An encoder that costs next to nothing, for benchmarks of everything else: the default model's tokenizer, and behind
it one random BERT layer of 32 dimensions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.config import EncoderConfig
from pipelines.embedding.tokenizer import model_folder

DIMENSION = 32


def write_stand_in(folder: Path) -> Path:
    """Write the model's files, the same on every run, and return the folder; what is there already stays.

    Written in a process of its own: that imports transformers, 400 MiB that no update has.
    """
    if not (folder / "modules.json").is_file():
        subprocess.run([sys.executable, "-m", "benchmarks.stand_in", str(folder)], check=True, capture_output=True)
    return folder


def _write(folder: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    original = model_folder(EncoderConfig())
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (original / name).is_file():
            shutil.copy(original / name, folder / name)
    torch.manual_seed(7)
    words = len(json.loads((original / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
    shape = BertConfig(
        vocab_size=words,
        hidden_size=DIMENSION,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    BertModel(shape).save_pretrained(folder, safe_serialization=True)
    kinds = ("sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(zip(("", "1_Pooling"), kinds, strict=True))
    ]
    pooling = {
        "word_embedding_dimension": DIMENSION,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_cls_token": False,
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in (
        ("sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False}),
        ("1_Pooling/config.json", pooling),
        ("modules.json", modules),  # last: whoever finds it finds all
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
