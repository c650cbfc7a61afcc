"""The lexical half of retrieval: texts become hashed terms with BM25 weights, questions with inverse frequencies.

Terms are hashed, so there is no vocabulary to keep; document weights use a fixed average length, so that one edit
does not reweigh every row; how rare a term is enters only at query time, from the statistics of a snapshot.
Okapi BM25: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import regex

from pipelines.config import LexicalConfig
from pipelines.identity import fingerprint
from pipelines.installed import version_of

_CODE_VERSION = 1  # raise with every change that lets any text get other terms or weights
_TERMS = (1 << 32) - 1  # a sparse vector's dimensions lie below this
_CACHED_WORDS = 500_000
_LONGEST_WORD = 64  # characters; beyond it are data, which nobody types into a question

# Han, kana, Thai, Lao, Khmer and Myanmar put no space between words.
_RUN = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+")
_WORD = regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*+(?:['’][\p{L}\p{N}][\p{L}\p{N}\p{M}]*+)*+")
_ASCII_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")  # the same for ASCII, at twice the speed

_STOPPED = (
    "a an and are as at be been but by can could did do does for from had has have he her his how i if in into is it "
    "its may might more most no nor not of on or our she should so some such than that the their them then there "
    "these they this those to too was we were what when where which while who whom why will with would you your"
)
_STOP_WORDS = frozenset(_STOPPED.split())

Terms = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


class _Analyzer(dict[str, int]):
    """Raw word to hashed term, -1 for a stop word; a word that was not seen before is analysed and remembered."""

    def __init__(self, stemmer: str) -> None:
        super().__init__()
        self.stem: Callable[[str], str] = _stemmer(stemmer)

    def __missing__(self, word: str) -> int:
        term = self.term(word)
        hashed = -1 if term is None else zlib.crc32(term.encode("utf-8", "surrogatepass")) % _TERMS
        if len(self) < _CACHED_WORDS and len(word) <= _LONGEST_WORD:
            self[word] = hashed
        return hashed

    def term(self, word: str) -> str | None:
        """The term that stands for a folded word, or None for a stop word."""
        if "'" in word or "’" in word:
            word = word.replace("’", "'")
            word = word[:-2] if word.endswith("'s") else word.replace("'", "")
        if word in _STOP_WORDS:
            return None
        return self.stem(word)[:_LONGEST_WORD]


def analyze(text: str, config: LexicalConfig | None = None) -> list[str]:
    """The terms of a text, in order, repeated as often as they occur: folded, stemmed, without stop words.

    Runs of a script without spaces between words become overlapping pairs of characters (one alone stays as it is).
    """
    analyzer = _analyzer((config or LexicalConfig()).stemmer)
    return [term for word in _split(text) if (term := analyzer.term(word)) is not None]


def document_vectors(texts: Sequence[str], config: LexicalConfig) -> tuple[npt.NDArray[np.int32], Terms, Weights]:
    """Sparse vectors of many texts in one go.

    Returns:
        Offsets, shape (n + 1,): text i has the entries offsets[i]:offsets[i + 1] of the other two; its hashed terms,
        ascending; and their BM25 document weights tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average_length)).
    """
    analyzer = _analyzer(config.stemmer)
    hashed = [[term for term in map(analyzer.__getitem__, _split(text)) if term >= 0] for text in texts]
    lengths = np.fromiter(map(len, hashed), np.int64, len(hashed))
    rows = np.repeat(np.arange(len(hashed), dtype=np.uint64), lengths)
    flat = np.fromiter((term for terms in hashed for term in terms), np.uint64, int(lengths.sum()))
    entries, frequency = np.unique((rows << np.uint64(32)) | flat, return_counts=True)
    row = (entries >> np.uint64(32)).astype(np.int64)
    terms = (entries & np.uint64(0xFFFFFFFF)).astype(np.int64)
    offsets = np.searchsorted(row, np.arange(len(hashed) + 1)).astype(np.int32)
    scale = config.k1 * (1 - config.b + config.b * lengths / config.average_length)
    weights = frequency * (config.k1 + 1) / (frequency + scale[row])
    return offsets, terms, weights.astype(np.float32)


def document_vector(text: str, config: LexicalConfig) -> tuple[Terms, Weights]:
    """Hashed terms of one text, ascending, and their BM25 document weights; both empty where it has no word."""
    _, terms, weights = document_vectors([text], config)
    return terms, weights


def query_vector(
    text: str, config: LexicalConfig, frequencies: tuple[npt.ArrayLike, npt.ArrayLike], rows: int
) -> dict[int, float]:
    """Hashed terms of a question with their weights: times asked, times ln(1 + (rows - df + 0.5) / (df + 0.5)).

    Args:
        text: the question.
        config: the analyser's configuration, the same as for the documents.
        frequencies: hashed terms, ascending, and in how many rows each occurs.
        rows: rows in all.

    Returns:
        Terms that no row contains are left out; empty where none is left.
    """
    asked = _asked(text, config)
    known, counts = np.asarray(frequencies[0]), np.asarray(frequencies[1])
    if not asked or not len(known):
        return {}
    terms = np.fromiter(sorted(asked), np.int64, len(asked))
    at = np.minimum(np.searchsorted(known, terms), len(known) - 1)
    found = known[at] == terms
    terms, df = terms[found], counts[at[found]].astype(np.float64)
    weights = np.log1p((max(rows, 1) - df + 0.5).clip(min=0.0) / (df + 0.5))
    return {int(term): float(weight) * asked[int(term)] for term, weight in zip(terms, weights, strict=True)}


def question_terms(texts: Sequence[str], config: LexicalConfig) -> Terms:
    """The distinct hashed terms of questions, ascending."""
    asked = {term for text in texts for term in _asked(text, config)}
    return np.fromiter(sorted(asked), np.int64, len(asked))


def _asked(text: str, config: LexicalConfig) -> Counter[int]:
    """How often a question has each hashed term."""
    analyzer = _analyzer(config.stemmer)
    return Counter(term for term in map(analyzer.__getitem__, _split(text)) if term >= 0)


def analyzer_fp(config: LexicalConfig) -> str:
    """Fingerprint of the analyser and the weights: code version, options, libraries that know words and characters."""
    return fingerprint(
        "lexical",
        {
            "code": _CODE_VERSION,
            "k1": config.k1,
            "b": config.b,
            "average_length": config.average_length,
            "stemmer": config.stemmer,
            "regex": version_of("regex"),
            "pystemmer": version_of("pystemmer") if config.stemmer != "none" else "",
            "unicode": unicodedata.unidata_version,
        },
    )


def _split(text: str) -> list[str]:
    """Words of a text, folded; runs without spaces as pairs of characters."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    runs = _RUN.findall(folded)
    words: list[str] = _WORD.findall(_RUN.sub(" ", folded) if runs else folded)
    for run in runs:
        words += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
    return words


@lru_cache(maxsize=4)
def _analyzer(stemmer: str) -> _Analyzer:
    return _Analyzer(stemmer)


def _stemmer(name: str) -> Callable[[str], str]:
    if name == "none":
        return lambda word: word
    import Stemmer  # a compiled library: only where texts are analysed

    stemmer: Callable[[str], str] = Stemmer.Stemmer(name, 0).stemWord
    return stemmer
