"""Subtitles (SubRip, WebVTT): what is said, without the times, put together into sentences."""

from __future__ import annotations

import re

from pipelines.parsing.decoding import decode
from pipelines.parsing.elements import Element, Parsed
from pipelines.parsing.formats.markdown import strip_tags
from pipelines.parsing.limits import Limits

_TIMES = re.compile(r"^\s*(?:\d+:)?\d+:\d+[.,]\d+\s+-->\s+.*$")
_VOICE = re.compile(r"<v(?:\.[\w.]+)?\s+([^>]+)>")
_SENTENCE_END = (".", "!", "?", "…", '"', "”", "。")
_MAX_PARAGRAPH = 600  # characters after which a sentence's end begins a new paragraph


def parse(content: bytes, _media_type: str, _config: Limits) -> Parsed:
    """Paragraphs of speech; a new speaker begins a new one."""
    out: list[Element] = []
    current = ""
    for block in re.split(r"\n\s*\n", decode(content).replace("\r\n", "\n")):
        lines = block.strip().split("\n")
        index = next((i for i, line in enumerate(lines) if _TIMES.match(line)), None)
        if index is None:
            continue
        raw = "\n".join(lines[index + 1 :])
        speaker = _VOICE.search(raw)
        text = " ".join(strip_tags(_VOICE.sub("", raw)).split())
        if not text:
            continue
        if speaker:
            text = f"{speaker.group(1)}: {text}"
        if current and (speaker or (len(current) > _MAX_PARAGRAPH and current.endswith(_SENTENCE_END))):
            out.append(Element("paragraph", current))
            current = ""
        current = f"{current} {text}".strip()
    if current:
        out.append(Element("paragraph", current))
    return Parsed(tuple(out))
