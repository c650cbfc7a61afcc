"""Files of many questions, and TREC run files of their answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from pipelines.errors import ConfigError
from pipelines.retrieval.search import Hit


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
