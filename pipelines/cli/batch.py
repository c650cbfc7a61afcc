"""Hits as records, files of many questions, and TREC run files of their answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipelines.cli.console import Console
from pipelines.errors import ConfigError
from pipelines.retrieval.asker import Asker
from pipelines.retrieval.search import Hit, Mode


def read_questions(path: Path) -> list[tuple[str, str]]:
    """(id, text) of each line `id<TAB>text`; blank lines are passed over.

    Raises:
        ConfigError: a line has no tab, no id or no text, or an id comes twice; the line is named.
    """
    questions: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the file of questions cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        identity, tab, text = (part.strip() if part != "\t" else part for part in line.partition("\t"))
        if not (identity and tab and text):
            raise ConfigError(f"{path}:{number}: expected an id, a tab and a question, found {line[:80]!r}")
        if identity in questions:
            raise ConfigError(f"{path}:{number}: the id {identity!r} was used before; give each question its own")
        questions[identity] = text
    return list(questions.items())


def trec_lines(answers: Sequence[tuple[str, Sequence[Hit]]]) -> Iterator[str]:
    """Lines of a TREC run: question, Q0, document, rank from 1, score, tag.

    The document is the source's own id (relative path or record id); white space in it is percent-encoded, since a run
    file separates its columns by it.
    """
    for identity, hits in answers:
        for rank, hit in enumerate(hits, start=1):
            document = "".join(quote(c) if c.isspace() else c for c in hit.uri)
            yield f"{identity} Q0 {document} {rank} {hit.score:.6f} lockstep\n"


def hit_record(hit: Hit) -> dict[str, Any]:
    """A hit for scripts; `body` is its text without the heading context."""
    return {
        "doc_id": hit.doc_id,
        "uri": hit.uri,
        "source": hit.source,
        "chunk_id": hit.chunk_id,
        "score": hit.score,
        "title": hit.title,
        "heading_path": hit.heading_path,
        "pages": hit.pages,
        "text": hit.text,
        "body": hit.text[hit.body_start :],
    }


def answer_batch(
    console: Console,
    asker: Asker,
    path: Path,
    principals: Sequence[str],
    *,
    tenant: str,
    k: int,
    mode: Mode | None,
    trec: bool,
) -> None:
    """Answer a file of questions, one best hit a document: as a TREC run, as JSON, or the first document of each.

    Raises:
        ConfigError: the file is malformed.
    """
    questions = read_questions(path)
    answer = asker.ask_documents([text for _, text in questions], principals, tenant=tenant, k=k, mode=mode)
    found = [(identity, hits) for (identity, _), hits in zip(questions, answer.hits, strict=True)]
    if trec:
        sys.stdout.writelines(trec_lines(found))
        return
    console.result(
        {
            "snapshot_id": answer.snapshot_id,
            "questions": [{"id": identity, "hits": [hit_record(hit) for hit in hits]} for identity, hits in found],
        },
        [f"{identity}\t{hits[0].uri if hits else '-'}" for identity, hits in found],
    )
