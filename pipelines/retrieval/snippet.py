"""The few words of a hit that a person wants to see first: the passage that shares most terms with the question."""

from __future__ import annotations

import re

from pipelines.lexical import analyze

_PASSAGE = re.compile(r"[^.!?\n]+[.!?]*")


def snippet(body: str, question: str, *, width: int = 160) -> str:
    """A passage of `body` of at most about `width` characters, on one line; its beginning when no term is shared."""
    wanted = set(analyze(question))
    passages = [match.group().strip() for match in _PASSAGE.finditer(body)]
    passages = [" ".join(passage.split()) for passage in passages if passage]
    if not passages:
        return ""
    shared = [len(wanted & set(analyze(passage))) for passage in passages]
    # A heading repeats the question's words and answers nothing: whole sentences go first.
    best = max(range(len(passages)), key=lambda i: (shared[i] > 0 and passages[i][-1] in ".!?", shared[i], -i))
    text = passages[best]
    for following in passages[best + 1 :]:
        if len(text) + 1 + len(following) > width:
            break
        text += " " + following
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."
