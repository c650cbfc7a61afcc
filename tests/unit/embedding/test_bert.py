"""Our forward pass and OpenVINO's against sentence-transformers, on the real model and on tiny ones made here."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.config import EncoderConfig
from pipelines.embedding import bert, openvino_runtime
from pipelines.embedding.bert import BertRuntime, is_supported
from pipelines.embedding.encoder import Encoder, load_encoder
from pipelines.embedding.model import files_hash
from pipelines.embedding.runtime import Runtime
from pipelines.embedding.sentence import SentenceRuntime, load_sentence_transformer
from pipelines.embedding.tokenizer import model_folder
from pipelines.errors import ConfigError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(40))]
ODD = ["", "   ", "\u0301", "한국어 텍스트", "word", "İstanbul ﬁn", "x" * 3_000, "several words " * 400]


def made_texts(count: int, longest: int) -> list[str]:
    draw = random.Random(3)
    return [" ".join(draw.choices(WORDS[5:], k=draw.randint(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a model folder as sentence-transformers saves it, with random weights."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import tokenizers
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    def make(*, pooling: str = "mean", activation: str = "gelu") -> Path:
        torch.manual_seed(5)
        folder = tmp_path_factory.mktemp("tiny")
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        settings = BertConfig(vocab_size=len(WORDS), max_position_embeddings=48, hidden_act=activation, **size)
        BertModel(settings).save_pretrained(folder / "plain")
        plain = tokenizers.Tokenizer(
            tokenizers.models.WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
        )
        plain.normalizer = tokenizers.normalizers.BertNormalizer()
        plain.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        plain.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        PreTrainedTokenizerFast(
            tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
            model_max_length=48,
        ).save_pretrained(folder / "plain")  # fmt: skip
        words = Transformer(str(folder / "plain"), max_seq_length=40)
        modules = [words, Pooling(32, pooling_mode=pooling), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder / "saved"))
        return folder / "saved"

    return make


def expected(folder: Path, texts: list[str]) -> Any:
    return load_sentence_transformer(folder, "float32").encode(texts, show_progress_bar=False)


def encoded(runtime: Runtime, texts: list[str]) -> Any:
    return Encoder(runtime, model_fp="", token_budget=512).encode(texts)


def test_a_tiny_bert_gives_the_vectors_of_sentence_transformers(tiny: Callable[..., Path]) -> None:
    folder = tiny()
    texts = [*made_texts(60, 60), "", "unknown"]
    assert is_supported(folder)
    encoder = load_encoder(EncoderConfig(model=str(folder), dtype="float32"))
    assert isinstance(encoder._runtime, BertRuntime)
    assert (encoder.max_tokens, encoder.dimension) == (40, 32)
    assert np.abs(encoder.encode(texts) - expected(folder, texts)).max() < 1e-5


def test_without_reordered_weights_the_vectors_are_the_same(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, texts = tiny(), made_texts(20, 60)
    packed = encoded(BertRuntime(folder, "float32", max_tokens=40), texts)
    monkeypatch.setattr(bert, "_can_pack", lambda dtype: False)
    assert np.abs(encoded(BertRuntime(folder, "float32", max_tokens=40), texts) - packed).max() < 1e-5


@pytest.mark.parametrize("options", [{"pooling": "cls"}, {"activation": "relu"}], ids=["pooling", "activation"])
def test_another_model_is_left_to_sentence_transformers(tiny: Callable[..., Path], options: dict[str, str]) -> None:
    folder, texts = tiny(**options), made_texts(20, 60)
    assert not is_supported(folder)
    loaded = load_encoder(EncoderConfig(model=str(folder), dtype="float32"))
    assert isinstance(loaded._runtime, SentenceRuntime)
    assert np.abs(loaded.encode(texts) - expected(folder, texts)).max() < 1e-5


def test_a_default_prompt_is_left_to_sentence_transformers_and_used(tiny: Callable[..., Path]) -> None:
    folder, texts = tiny(), made_texts(5, 20)
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text()) | {"prompts": {"any": "word7 word8 "}, "default_prompt_name": "any"}
    path.write_text(json.dumps(settings))
    assert not is_supported(folder)
    assert np.abs(encoded(SentenceRuntime(folder, "float32"), texts) - expected(folder, texts)).max() < 1e-5


def test_the_default_model_gives_the_vectors_of_sentence_transformers() -> None:
    folder = model_folder(EncoderConfig())
    texts = [*ODD, *made_texts(30, 120)]
    wanted = expected(folder, texts)
    exact = load_encoder(EncoderConfig(dtype="float32")).encode(texts)
    assert np.abs(exact - wanted).max() < 1e-5
    rounded = load_encoder(EncoderConfig(dtype="bfloat16")).encode(texts)
    assert (rounded * wanted).sum(axis=1).min() > 0.999


def test_a_vector_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    encoder = load_encoder(EncoderConfig(dtype="float32"))
    texts = made_texts(12, 100)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert np.abs(encoder.encode(texts) - alone).max() < 1e-5


def test_encoding_leaves_torch_with_the_threads_that_it_had() -> None:
    import torch

    encoder = load_encoder(EncoderConfig(dtype="float32"))
    torch.set_num_threads(encoder._runtime.streams)
    encoder.encode(made_texts(40, 100))
    assert torch.get_num_threads() == encoder._runtime.streams


def test_openvino_gives_the_same_vectors_and_converts_once(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the extra lockstep[openvino] is not installed")
    monkeypatch.setenv("LOCKSTEP_CACHE", str(tmp_path / "cache"))
    folder, texts = tiny(), [*made_texts(40, 60), ""]

    def load() -> Runtime:
        return openvino_runtime.OpenVinoRuntime(
            folder, "float32", files=files_hash(folder), dimension=32, max_tokens=40
        )

    assert np.abs(encoded(load(), texts) - expected(folder, texts)).max() < 1e-5
    monkeypatch.setattr(openvino_runtime, "_convert", None)
    load()
    kept = [path.name for path in (tmp_path / "cache" / "openvino").iterdir()]
    assert len(kept) == 1
    assert not kept[0].startswith(".")


def test_openvino_can_be_used_first_from_several_threads(tiny: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra lockstep[openvino] is not installed")
    code = (
        "import sys; from pipelines.config import EncoderConfig; from pipelines.embedding.encoder import load_encoder;"
        "encoder = load_encoder(EncoderConfig(model=sys.argv[1], backend='openvino', dtype='float32'));"
        "encoder._runtime.streams = 4; print(encoder.encode(['word1 word2 word3'] * 500).shape)"
    )
    settings = {**os.environ, "LOCKSTEP_CACHE": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code, str(tiny())], env=settings, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.stdout.strip() == "(500, 32)", found.stderr


def test_openvino_says_which_folder_it_cannot_write(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="the extra lockstep[openvino] is not installed")
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOCKSTEP_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="set LOCKSTEP_CACHE to one that can"):
        openvino_runtime.OpenVinoRuntime(tiny(), "float32", files="", dimension=32, max_tokens=40)
