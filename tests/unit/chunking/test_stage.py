from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.chunking.fingerprint import chunker_fp
from pipelines.chunking.layout import document_text
from pipelines.chunking.stage import ChunkStage, chunk_stage
from pipelines.config import ChunkingConfig, EncoderConfig, LexicalConfig
from pipelines.embedding.tokenizer import load_tokenizer, model_folder
from pipelines.identity import text_hash
from pipelines.lake.schemas import CHUNKS, ELEMENTS
from pipelines.lexical import document_vector
from pipelines.parsing.elements import Element

INPUT = pa.schema(
    [("content_hash", pa.string()), ("recipe_fp", pa.string()), ("title", pa.string()), ELEMENTS.field("elements")]
)
SCIFACT = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "scifact"
STAGE = chunk_stage(ChunkingConfig(), LexicalConfig(), EncoderConfig())


def batch(documents: Sequence[tuple[str | None, Sequence[Element]]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(
        [
            {
                "content_hash": f"content{i}",
                "recipe_fp": "recipe",
                "title": title,
                "elements": [dataclasses.asdict(e) for e in elements],
            }
            for i, (title, elements) in enumerate(documents)
        ],
        schema=INPUT,
    )


LONG = [Element("heading", "Scope", level=1)] + [
    Element("paragraph", f"Paragraph {i} says that the server number {i} is in room {i * 3}. " * 6) for i in range(12)
]


def test_rows_have_the_schema_of_the_table_and_number_the_chunks_of_each_document() -> None:
    documents = [("Long", LONG), ("Empty", []), (None, [Element("paragraph", "Short.", page=2)])]
    table = pa.Table.from_batches(list(STAGE(iter([batch(documents)]))))
    assert table.schema == CHUNKS
    rows = table.to_pylist()
    long, short = rows[:-1], rows[-1]
    assert [row["ordinal"] for row in long] == list(range(len(long)))
    assert {row["chunk_count"] for row in long} == {len(long)}
    assert {(row["content_hash"], row["recipe_fp"]) for row in long} == {("content0", "recipe")}
    assert short == {
        "content_hash": "content2",
        "recipe_fp": "recipe",
        "ordinal": 0,
        "chunk_count": 1,
        "text": "Short.",
        "text_hash": text_hash("Short."),
        "body_start": 0,
        "kind": "text",
        "heading_path": [],
        "section": 0,
        "char_start": 0,
        "char_end": 6,
        "pages": [2],
        "tokens": 4,
        "terms": document_vector("Short.", LexicalConfig())[0].tolist(),
        "weights": document_vector("Short.", LexicalConfig())[1].tolist(),
    }


def test_spans_and_vectors_are_those_of_the_row() -> None:
    text = document_text(LONG)
    for row in pa.Table.from_batches(list(STAGE(iter([batch([("Long", LONG)])])))).to_pylist():
        assert row["text"][row["body_start"] :] == text[row["char_start"] : row["char_end"]]
        assert row["text_hash"] == text_hash(row["text"])
        terms, weights = document_vector(row["text"], LexicalConfig())
        assert (row["terms"], row["weights"]) == (terms.tolist(), weights.tolist())


def test_the_stage_gives_the_same_rows_however_its_input_and_output_are_cut() -> None:
    documents = [(f"Doc {i}", LONG[: i % 13]) for i in range(30)]
    whole = pa.Table.from_batches(list(STAGE(iter([batch(documents)]))))
    small = ChunkStage(ChunkingConfig(), LexicalConfig(), EncoderConfig(), _rows=7)
    one = batch(documents)
    cut = list(small(one.slice(i, 4) for i in range(0, 30, 4)))
    assert all(part.num_rows >= 7 for part in cut[:-1])
    batches_of = [set(part["content_hash"].to_pylist()) for part in cut]
    assert sum(map(len, batches_of)) == len(set.union(*batches_of))  # a commit never holds half a document
    assert pa.Table.from_batches(cut) == whole


def test_no_input_gives_no_batches() -> None:
    assert list(STAGE(iter([]))) == []
    assert list(STAGE(iter([batch([])]))) == []


def test_the_stage_can_be_sent_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(STAGE))
    assert list(copy(iter([batch([("Long", LONG)])]))) == list(STAGE(iter([batch([("Long", LONG)])])))


def test_every_option_and_the_tokenizer_change_the_fingerprint() -> None:
    fingerprints = {
        chunker_fp(ChunkingConfig(), "a"),
        chunker_fp(ChunkingConfig(), "b"),
        chunker_fp(ChunkingConfig(max_tokens=200), "a"),
        chunker_fp(ChunkingConfig(heading_context=False), "a"),
    }
    assert len(fingerprints) == 4


def test_a_tokenizer_whose_counts_do_not_add_up_is_never_overrun_either(tmp_path: Path) -> None:
    source = model_folder(EncoderConfig())
    definition = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    definition["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    definition["normalizer"] = None
    definition["model"] = {
        "type": "BPE",
        "vocab": {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", *_byte_letters()])},
        "merges": [],
    }
    definition["post_processor"] = None
    definition["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 200}')
    (tmp_path / "modules.json").write_text("[]")
    encoder = EncoderConfig(model=str(tmp_path))
    tokenizer = load_tokenizer(encoder)
    assert not tokenizer.additive
    table = pa.Table.from_batches(
        list(chunk_stage(ChunkingConfig(), LexicalConfig(), encoder)(iter([batch([("Ä", LONG)])])))
    )
    assert table["tokens"].to_pylist() == tokenizer.count(table["text"].to_pylist())
    assert 100 < max(table["tokens"].to_pylist()) <= 200


def _byte_letters() -> list[str]:
    """The letters that stand for bytes in a byte-level vocabulary."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]


@pytest.mark.shared_data
@pytest.mark.skipif(not SCIFACT.is_dir(), reason="../shared/data/scifact is absent")
def test_no_chunk_of_a_real_corpus_is_cut_by_the_encoder() -> None:
    with (SCIFACT / "corpus.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(next(file)) for _ in range(400)]
    documents = [(row["title"], [Element("paragraph", row["text"])]) for row in rows]
    table = pa.Table.from_batches(list(STAGE(iter([batch(documents)]))))
    assert len(set(table["content_hash"].to_pylist())) == len(rows)
    counted = load_tokenizer(EncoderConfig()).count(table["text"].to_pylist())
    assert table["tokens"].to_pylist() == counted
    assert max(counted) <= 256
