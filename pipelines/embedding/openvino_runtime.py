"""The optional OpenVINO backend: the model converted once on this machine, then loaded without torch.

The converted model lies in a cache folder outside the data folder: it follows from the model's files and can be made
again at any time.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.embedding.runtime import ModelTokens, TokenIds, Vectors, cores_to_use
from pipelines.embedding.sentence import load_sentence_transformer, pad
from pipelines.errors import ConfigError
from pipelines.identity import fingerprint

_CODE_VERSION = 1  # raise when the converted model changes for the same files


class OpenVinoRuntime:
    """A sentence-transformers model computed by OpenVINO, padded to the longest text of each batch."""

    def __init__(self, folder: Path, dtype: str, *, files: str, dimension: int, max_tokens: int) -> None:
        """Convert the model if this is its first use here, and compile it for this CPU.

        Args:
            folder: the model's files.
            dtype: "float32" or "bfloat16", of products.
            files: hash of the model's files, which names the converted copy.
            dimension: length of its vectors.
            max_tokens: longest text that it reads.

        Raises:
            ConfigError: OpenVINO is not installed, or the cache folder cannot be written.
        """
        try:
            import openvino
        except ImportError as error:
            raise ConfigError(
                "encoder.backend: openvino is not installed; run `pip install 'lockstep[openvino]'`, "
                "or use `backend: torch`"
            ) from error
        self.dimension, self.max_tokens = dimension, max_tokens
        self.streams = cores_to_use()
        self.tokenize = ModelTokens(folder, max_tokens)
        path = _converted(folder, files, openvino.__version__)
        options = {
            "INFERENCE_PRECISION_HINT": {"bfloat16": "bf16", "float32": "f32"}[dtype],
            "INFERENCE_NUM_THREADS": self.streams,
            "NUM_STREAMS": self.streams,
        }
        self._compiled = openvino.Core().compile_model(str(path), "CPU", options)
        # OpenVINO's binding finds numpy at its first use, and two threads that come first together wait for ever: one
        # holds the interpreter's lock, the other that of the binding (openvino 2026.4).
        self.forward([[0]])

    def forward(self, ids: Sequence[TokenIds]) -> Vectors:
        """The model's sentence embeddings of one batch."""
        # A request of its own for each batch, because several threads encode at once.
        vectors: Vectors = self._compiled.create_infer_request().infer(list(pad(ids, 0)))[0].copy()
        return vectors

    def begin_stream(self) -> None:
        """Nothing: OpenVINO keeps each request on a stream of its own."""

    def end_streams(self) -> None:
        """Nothing."""


def cache_folder() -> Path:
    """Where converted models are kept: LOCKSTEP_CACHE, else the user's cache folder."""
    chosen = os.environ.get("LOCKSTEP_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lockstep"


def _converted(folder: Path, files: str, version: str) -> Path:
    """The converted model of those files; made if it is not there, complete or absent."""
    name = fingerprint("openvino", {"files": files, "openvino": version, "code": _CODE_VERSION})
    target = cache_folder() / "openvino" / name
    if not (target / "model.xml").is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            making = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
        except OSError as error:
            raise ConfigError(
                f"converting model {folder} for OpenVINO: cache folder {target.parent} cannot be written ({error}); "
                "set LOCKSTEP_CACHE to one that can"
            ) from error
        try:
            _convert(folder, making / "model.xml")
            try:
                making.replace(target)
            except OSError:
                if not (target / "model.xml").is_file():  # else another process was first, with the same result
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return target / "model.xml"


def _convert(folder: Path, path: Path) -> None:
    """Trace sentence-transformers' modules and save them for OpenVINO, weights in float32.

    OpenVINO's PyTorch frontend is called directly: `openvino.convert_model` would report its use over the network.
    """
    import openvino
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    sentence = load_sentence_transformer(folder, "float32")
    has_types = "token_type_ids" in sentence.tokenizer.model_input_names

    class Whole(torch.nn.Module):
        """Token ids and mask to sentence embeddings."""

        def __init__(self) -> None:
            super().__init__()
            self.modules_in_order = torch.nn.ModuleList(sentence)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            if has_types:
                features["token_type_ids"] = torch.zeros_like(input_ids)
            for module in self.modules_in_order:
                features = module(features)
            return features["sentence_embedding"]

    ids = torch.arange(3 * 17).view(3, 17) % 5
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0  # a mask without zeros would be traced away
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's: of what it takes as fixed, only the mask's form matters here
        decoder = TorchScriptPythonDecoder(Whole().eval(), example_input=(ids, mask))
        frontend = FrontEndManager().load_by_framework("pytorch")
        openvino.save_model(frontend.convert(frontend.load(decoder)), str(path), compress_to_fp16=False)
