"""The encoder's own tokenizer, without the encoder: what a text costs, counted exactly as the encoder will count it.

Everything that must fit into the encoder is measured here. Loading reads the model's `tokenizer.json` and small
configuration files; neither torch nor transformers is imported.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from pipelines.config import EncoderConfig
from pipelines.errors import ConfigError
from pipelines.identity import content_hash, fingerprint
from pipelines.installed import version_of

# Python's str.split() also splits at these controls, which BERT's normaliser deletes instead, joining their neighbours.
_DELETED_BY_BERT = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CACHED_WORDS = 400_000  # about 60 MB; a corpus of 5,000 abstracts has 92,000 distinct words
_CACHED_WORD_LENGTH = 40  # longer "words" are scripts without spaces or data, and do not come again


class Tokenizer:
    """Counts tokens, special tokens included, and finds where each token came from. Picklable."""

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer of a model folder.

        Raises:
            ConfigError: the folder has no `tokenizer.json`, or nothing says how many tokens the model takes.
        """
        import tokenizers  # 70 ms and a compiled library: only where tokens are counted

        self.folder = folder
        definition = folder / "tokenizer.json"
        try:
            raw = definition.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"model folder {folder}: its tokenizer cannot be read from {definition.name} ({error}); "
                "name a model that was saved with a fast tokenizer, or install the model's package again"
            ) from error
        self._tokenizer = tokenizers.Tokenizer.from_str(raw.decode("utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens: int = self._tokenizer.num_special_tokens_to_add(False)
        self.max_tokens: int = _max_tokens(folder)
        self.additive: bool = _is_additive(json.loads(raw))
        self.fingerprint: str = fingerprint(
            "tokenizer",
            {
                "definition": content_hash(raw),
                "max_tokens": self.max_tokens,
                "library": version_of("tokenizers"),
            },
        )
        self._words: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Path]]:
        return Tokenizer, (self.folder,)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the encoder would see it alone, special tokens included."""
        return [n + self.special_tokens for n in self.count_bare(texts)]

    def count_bare(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text without special tokens.

        Where counts add up across white space (`additive`), words are counted once and remembered, which is several
        times faster than tokenizing, and exact.
        """
        if not self.additive:
            return self._tokenize(texts)
        split = [_words(text) for text in texts]
        unknown = self._learn(split)
        known = self._words
        totals = [sum(map(known.__getitem__, words)) for words in split]
        for word in unknown:
            if len(word) > _CACHED_WORD_LENGTH:
                del known[word]
        return totals

    def learn(self, texts: Iterable[str]) -> None:
        """Look the words of many texts up at once: a portion of a corpus, before its texts are counted one by one."""
        if self.additive:
            self._learn(map(_words, texts))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Half-open character spans of the tokens of one text, special tokens left out."""
        spans: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return spans

    def _learn(self, split: Iterable[list[str]]) -> list[str]:
        """Count the words that are not known yet, and return them."""
        if len(self._words) > _CACHED_WORDS:
            self._words = {}
        unknown = list(set(chain.from_iterable(split)).difference(self._words))
        if unknown:
            self._words.update(zip(unknown, self._tokenize(unknown), strict=True))
        return unknown

    def _tokenize(self, texts: Sequence[str]) -> list[int]:
        return [len(e) for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def model_folder(config: EncoderConfig) -> Path:
    """The folder with the model's files: the configured folder, or the one inside the installed package of that name.

    Raises:
        ConfigError: there is neither.
    """
    folder = Path(config.model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    package = config.model.replace("-", "_")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    for root in (found.submodule_search_locations or ()) if found else ():
        marks = sorted(Path(root).rglob("modules.json"))
        if marks:
            return marks[0].parent.resolve()
    raise ConfigError(
        f"encoder.model: {config.model!r} is neither a folder nor an installed package that carries a "
        "sentence-transformers model; install the package, or give the path of a model folder"
    )


def load_tokenizer(config: EncoderConfig) -> Tokenizer:
    """The tokenizer of the configured model, read once a process.

    Raises:
        ConfigError: the model cannot be found, or has no usable tokenizer.
    """
    return _load(model_folder(config))


@lru_cache(maxsize=4)
def _load(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


def _words(text: str) -> list[str]:
    return (_DELETED_BY_BERT.sub("", text) if _DELETED_BY_BERT.search(text) else text).split()


def _is_additive(definition: dict[str, Any]) -> bool:
    """Whether a text's tokens are those of its white-space separated words, one after the other: BERT's family."""
    normalizer = definition.get("normalizer") or {}
    return (
        normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text") is True
        and (definition.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and (definition.get("model") or {}).get("type", "WordPiece") == "WordPiece"
        and not any(t["lstrip"] or t["rstrip"] or t["content"].split() != [t["content"]] for t in _added(definition))
    )


def _added(definition: dict[str, Any]) -> list[dict[str, Any]]:
    added: list[dict[str, Any]] = definition.get("added_tokens") or []
    return added


def _max_tokens(folder: Path) -> int:
    """What sentence-transformers lets through: `max_seq_length`, else the smaller limit of tokenizer and model."""
    limit = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    if limit is None:
        limits = (
            _json(folder / "tokenizer_config.json").get("model_max_length"),
            _json(folder / "config.json").get("max_position_embeddings"),
        )
        limit = min((int(n) for n in limits if n), default=None)
    if limit is None:
        raise ConfigError(
            f"model folder {folder}: no file says how many tokens the model takes; "
            'add sentence_bert_config.json with {"max_seq_length": N}'
        )
    return int(limit)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"model file {path}: not valid JSON ({error}); install the model again") from error
    return value if isinstance(value, dict) else {}
