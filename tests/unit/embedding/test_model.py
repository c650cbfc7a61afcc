from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config import EncoderConfig
from pipelines.embedding import model
from pipelines.embedding.encoder import load_encoder
from pipelines.embedding.model import describe, described_config, dimension, model_fp, resolve_dtype
from pipelines.embedding.runtime import available_cores
from pipelines.embedding.tokenizer import model_folder
from pipelines.errors import ConfigError, IndexMismatch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the real model's small files and something in place of its weights."""
    small = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(model_folder(EncoderConfig()), tmp_path / "model", ignore=small)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def config(folder: Path, **options: str) -> EncoderConfig:
    return EncoderConfig.model_validate({"model": str(folder), "dtype": "float32", **options})


def test_the_fingerprint_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pipelines.config import EncoderConfig;"
        "from pipelines.embedding.model import describe, model_fp;"
        "import pipelines.embedding.encoder, pipelines.embedding.stage, pipelines.embedding.bert;"
        "import pipelines.embedding.sentence, pipelines.embedding.openvino_runtime;"
        "model_fp(EncoderConfig()); describe(EncoderConfig());"
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'openvino') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"backend": "openvino"}], ids=["dtype", "backend"])
def test_what_decides_a_vector_changes_the_fingerprint(folder: Path, options: dict[str, str]) -> None:
    assert model_fp(config(folder, **options)) != model_fp(config(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
def test_a_changed_model_file_changes_the_fingerprint(folder: Path, name: str) -> None:
    before = model_fp(config(folder))
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert model_fp(config(folder)) != before


def test_batching_and_the_place_of_the_files_leave_the_fingerprint_alone(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    other = EncoderConfig(model=str(moved), dtype="float32", token_budget=9_999, portion_rows=7)
    assert model_fp(other) == model_fp(config(folder))


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ({"avx512f", "amx_bf16", "avx512_bf16"}, "bfloat16"),
        ({"avx512f", "avx512_bf16"}, "bfloat16"),
        ({"avx512f", "avx2"}, "float32"),
        (set(), "float32"),
    ],
    ids=["amx", "avx512_bf16", "avx512", "unknown"],
)
def test_auto_is_bfloat16_only_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: str
) -> None:
    monkeypatch.setattr(model, "cpu_flags", lambda: frozenset(flags))
    assert resolve_dtype(EncoderConfig()) == dtype
    assert model_fp(EncoderConfig()) == model_fp(EncoderConfig.model_validate({"dtype": dtype}))


def test_a_description_loads_the_encoder_that_made_it() -> None:
    made = load_encoder(EncoderConfig(dtype="float32"))
    record = json.loads(json.dumps(describe(EncoderConfig(dtype="float32"))))
    loaded = load_encoder(described_config(record))
    assert loaded.model_fp == made.model_fp == record["model_fp"]
    assert loaded.dimension == record["dimension"] == dimension(EncoderConfig()) == 384
    assert loaded is made


def test_a_description_of_other_files_is_refused_with_the_way_out(folder: Path) -> None:
    record = describe(config(folder))
    assert described_config(record).dtype == "float32"
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(IndexMismatch, match=r"was replaced.*install that version again, or run `lockstep update`"):
        described_config(record)


def test_weights_in_another_format_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no safetensors file"):
        model_fp(config(folder))


def test_cores_are_those_of_the_process_within_the_quota_of_its_container(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    cores = len(os.sched_getaffinity(0))
    assert available_cores(quota) == cores
    for text, expected in (("max 100000", cores), ("50000 100000", 1), ("100000 100000", 1), ("1 0", cores)):
        quota.write_text(text)
        assert available_cores(quota) == expected
