"""What encoding costs and changes, beside sentence-transformers' default: `python -m benchmarks.encode`.

Chunks of SciFact's abstracts, encoded by each kind of encoder in turn within one run, so that what else the machine
does hits all of them; models are loaded before. With `--retrieval` the training queries are searched exactly in each
kind's vectors (a document scores as its best chunk does) and compared with float32. Reads ../shared/data/scifact.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ir_measures
import numpy as np
import pyarrow as pa
from ir_measures import nDCG

from benchmarks.corpora import SCIFACT, scifact, scifact_questions
from benchmarks.measuring import arguments, machine, table
from pipelines.chunking.stage import chunk_stage
from pipelines.config import ChunkingConfig, EncoderConfig, LexicalConfig
from pipelines.embedding.encoder import load_encoder
from pipelines.embedding.model import resolve_dtype
from pipelines.embedding.sentence import load_sentence_transformer
from pipelines.embedding.tokenizer import model_folder
from pipelines.lake.schemas import ELEMENTS

DEFAULT = "sentence-transformers"
EXACT = "float32"


@dataclass(slots=True)
class Kind:
    """One way to encode, its loading time, and what each repetition took by the clock and of the processor."""

    encode: Callable[[Sequence[str]], np.ndarray]
    load_seconds: float
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    vectors: np.ndarray = field(default_factory=lambda: np.empty(0))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--limit", type=int, help="abstracts; all 5,183 without it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--retrieval", action="store_true", help="compare the search results too; needs all abstracts")
    options = parser.parse_args()
    if options.retrieval and options.limit:
        raise SystemExit(
            "--retrieval judges the whole corpus: leave --limit away, and take --repeats 1 for a quick run"
        )

    records = scifact(options.limit)
    chunks = chunked(records)
    texts = chunks["text"].to_pylist()
    kinds = load_kinds()
    for kind in kinds.values():
        kind.encode(texts[:64])
    names = list(kinds)
    for repeat in range(options.repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            kind = kinds[name]
            wall, cpu = time.perf_counter(), time.process_time()
            kind.vectors = kind.encode(texts)
            kind.wall.append(time.perf_counter() - wall)
            kind.cpu.append(time.process_time() - cpu)
            print(f"{repeat + 1} of {options.repeats}: {name} {kind.wall[-1]:.1f} s", file=sys.stderr)

    result = {name: figures(kind, kinds, len(texts)) for name, kind in kinds.items()}
    if options.retrieval:
        compare_retrieval(kinds, chunks, records, result)
    tokens = int(np.sum(chunks["tokens"].to_numpy()))
    about = {"machine": machine(), "abstracts": len(records), "chunks": len(texts), "tokens": tokens}
    if options.json:
        print(json.dumps({**about, "kinds": result}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    columns = list(next(iter(result.values())))
    print(table([[name, *(row[column] for column in columns)] for name, row in result.items()], ["kind", *columns]))


def load_kinds() -> dict[str, Kind]:
    """Every encoder that is installed, loaded; sentence-transformers' first."""
    started = time.perf_counter()
    plain = load_sentence_transformer(model_folder(EncoderConfig()), "float32")
    loaded = time.perf_counter() - started
    kinds = {DEFAULT: Kind(lambda texts: plain.encode(list(texts), show_progress_bar=False), loaded)}
    chosen = resolve_dtype(EncoderConfig())
    configs: dict[str, dict[str, str]] = {f"default ({chosen})": {}}
    configs |= {dtype: {"dtype": dtype} for dtype in (EXACT, "bfloat16") if dtype != chosen}
    if importlib.util.find_spec("openvino"):
        configs |= {"openvino": {"backend": "openvino"}, "openvino float32": {"backend": "openvino", "dtype": EXACT}}
    for name, options in configs.items():
        started = time.perf_counter()
        encoder = load_encoder(EncoderConfig.model_validate(options))
        kinds[name] = Kind(encoder.encode, time.perf_counter() - started)
    return kinds


def figures(kind: Kind, kinds: dict[str, Kind], count: int) -> dict[str, Any]:
    """Times as the best of the repetitions, ratios to sentence-transformers', and cosines with its vectors."""
    plain = kinds[DEFAULT]
    cosines = (kind.vectors.astype(np.float64) * plain.vectors).sum(axis=1)
    return {
        "load s": round(kind.load_seconds, 2),
        "chunks/s": round(count / min(kind.wall), 1),
        "wall s": round(min(kind.wall), 2),
        "ratio": round(min(kind.wall) / min(plain.wall), 3),
        "ratio of cpu": round(min(kind.cpu) / min(plain.cpu), 3),
        "cosine min": f"{cosines.min():.6f}",
        "cosine mean": f"{cosines.mean():.6f}",
    }


def compare_retrieval(
    kinds: dict[str, Kind], chunks: pa.Table, records: list[dict[str, str]], result: dict[str, dict[str, Any]]
) -> None:
    """Add nDCG@10, its difference from float32, and the share of float32's ten best documents that each kind finds."""
    owners = np.array([int(key) for key in chunks["content_hash"].to_pylist()])
    ids = [record["id"] for record in records]
    questions = scifact_questions()
    with (SCIFACT / "qrels.train.tsv").open(encoding="utf-8") as file:
        qrels = [
            ir_measures.Qrel(row["query_id"], row["doc_id"], int(row["relevance"]))
            for row in csv.DictReader(file, delimiter="\t")
        ]
    best: dict[str, list[list[int]]] = {}
    for name, kind in kinds.items():
        scores = kind.encode([text for _, text in questions]) @ kind.vectors.T
        of_documents = np.full((len(questions), len(ids)), -np.inf, np.float32)
        for chunk, owner in enumerate(owners):
            np.maximum(of_documents[:, owner], scores[:, chunk], out=of_documents[:, owner])
        order = np.argsort(-of_documents, axis=1, kind="stable")[:, :10]
        best[name] = order.tolist()
        run = [
            ir_measures.ScoredDoc(question, ids[document], float(of_documents[row, document]))
            for row, (question, _) in enumerate(questions)
            for document in order[row]
        ]
        result[name]["nDCG@10"] = f"{ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10]:.4f}"
    for name, row in result.items():
        shared = [len(set(a) & set(b)) / 10 for a, b in zip(best[name], best[DEFAULT], strict=True)]
        row["difference"] = f"{float(row['nDCG@10']) - float(result[DEFAULT]['nDCG@10']):+.4f}"
        row["top-10 overlap"] = f"{np.mean(shared):.4f}"


def chunked(records: list[dict[str, str]]) -> pa.Table:
    """The project's own chunks of the abstracts; `content_hash` holds the position of the record."""
    schema = pa.schema([("content_hash", pa.string()), ("recipe_fp", pa.string()), ("title", pa.string())]).append(
        ELEMENTS.field("elements")
    )
    rows = [
        {
            "content_hash": str(position),
            "recipe_fp": "",
            "title": record["title"],
            "elements": [{"kind": "paragraph", "text": record["text"]}],
        }
        for position, record in enumerate(records)
    ]
    stage = chunk_stage(ChunkingConfig(), LexicalConfig(), EncoderConfig())
    return pa.Table.from_batches(list(stage(iter([pa.RecordBatch.from_pylist(rows, schema=schema)]))))


if __name__ == "__main__":
    main()
