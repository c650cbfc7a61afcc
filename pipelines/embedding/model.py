"""Which encoder a configuration means here, and its fingerprint, without loading it: nothing imports torch."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pipelines.config import EncoderConfig
from pipelines.embedding.tokenizer import load_tokenizer, model_folder
from pipelines.errors import ConfigError, IndexMismatch
from pipelines.identity import content_hash, fingerprint

Dtype = Literal["float32", "bfloat16"]

_CODE_VERSION = 1  # raise with every change that lets a text have another vector
_MODEL_FILES = ("*.safetensors", "*.json", "*.txt", "*/*.json", "*/*.safetensors")
# CPUs that multiply bfloat16 natively. Measured against float32: 2.9 times faster with AMX, 1.7 times with avx512_bf16
# alone (Zen 5, where oneDNN computes both), and 2.7 times slower on a CPU with neither.
_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})


def resolve_dtype(config: EncoderConfig) -> Dtype:
    """The configured arithmetic; "auto" is bfloat16 where this CPU multiplies it natively, else float32."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if cpu_flags() & _BFLOAT16_FLAGS else "float32"


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Feature flags of this machine's CPU; empty where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        return frozenset()
    return frozenset()


def describe(config: EncoderConfig) -> dict[str, Any]:
    """How to load this very encoder again, for a snapshot's record; plain JSON values."""
    folder = model_folder(config)
    return {
        "model": config.model,
        "backend": config.backend,
        "dtype": resolve_dtype(config),
        "files": files_hash(folder),
        "dimension": _dimension(folder),
        "model_fp": model_fp(config),
    }


def described_config(record: dict[str, Any], **local: Any) -> EncoderConfig:
    """The configuration that a snapshot's record stands for; `local`: fields that are no part of it.

    Raises:
        IndexMismatch: the model's files here are not those that the snapshot was made with.
        ConfigError: the model is not installed here.
    """
    config = EncoderConfig(model=record["model"], backend=record["backend"], dtype=record["dtype"], **local)
    found = files_hash(model_folder(config))
    if found != record["files"]:
        raise IndexMismatch(
            f"model {record['model']!r} was replaced: the live snapshot was encoded with files {record['files'][:12]}, "
            f"installed are {found[:12]}; install that version again, or run `lockstep update` to encode with this one"
        )
    return config


def model_fp(config: EncoderConfig) -> str:
    """Fingerprint of everything that decides a text's vector: model files, arithmetic, backend, length, pooling."""
    folder = model_folder(config)
    return fingerprint(
        "model",
        {
            "code": _CODE_VERSION,
            "files": files_hash(folder),  # weights, tokenizer, pooling, normalisation and maximum length
            "backend": config.backend,
            "dtype": resolve_dtype(config),
        },
    )


def read_ahead(config: EncoderConfig) -> None:
    """Read the model's files in a thread, while this one imports what the update needs: neither needs the other."""

    def read() -> None:
        with contextlib.suppress(ConfigError):  # whoever needs the model raises it again, where it is told
            load_tokenizer(config)
            model_fp(config)

    threading.Thread(target=read, name="read model files", daemon=True).start()


def dimension(config: EncoderConfig) -> int:
    """Length of the encoder's vectors."""
    return _dimension(model_folder(config))


def _dimension(folder: Path) -> int:
    for name in ("1_Pooling/config.json", "config.json"):
        path = folder / name
        if path.is_file():
            values = json.loads(path.read_text(encoding="utf-8"))
            for key in ("word_embedding_dimension", "embedding_dimension", "hidden_size"):
                if key in values:
                    return int(values[key])
    raise ConfigError(
        f"model folder {folder}: no file says how long its vectors are; name a sentence-transformers model"
    )


def files_hash(folder: Path) -> str:
    """Hash of everything that a model is loaded from: weights, tokenizer and configuration files.

    Raises:
        ConfigError: the folder has no weights in the safetensors format.
    """
    paths = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    if not any(path.suffix == ".safetensors" for path in paths):
        raise ConfigError(f"model folder {folder}: there is no safetensors file; other weight formats are not loaded")
    states = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths)
    return _hash_of(folder, states)


@lru_cache(maxsize=8)
def _hash_of(folder: Path, states: tuple[tuple[str, int, int], ...]) -> str:
    parts = {os.path.relpath(path, folder): content_hash(Path(path).read_bytes()) for path, _, _ in states}
    return fingerprint("files", parts)
