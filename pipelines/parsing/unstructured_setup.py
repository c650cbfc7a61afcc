"""unstructured, made ready to be used offline: no telemetry, no model fetched, no tensor library loaded.

Its spaCy pipeline is replaced by a blank one that only splits sentences, which is all that documents with styles need.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

# thinc (under spaCy) imports these when they are installed: seconds and 500 MiB for nothing
_UNUSED = ("torch", "tensorflow", "mxnet", "cupy", "transformers")


@cache
def prepare() -> None:
    """Import unstructured's machinery in this process; from the second call on it costs nothing."""
    os.environ.update(DO_NOT_TRACK="1", SCARF_NO_ANALYTICS="true", UNSTRUCTURED_DISABLE_NOTICE="1")
    absent = [name for name in _UNUSED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None makes the import fail, as documented
    try:
        import spacy
        import unstructured.nlp.tokenize as tokenize

        pipeline: Any = spacy.blank("en")
        pipeline.add_pipe("sentencizer")
        tokenize._load_spacy_model = lambda: pipeline  # its own loader downloads a model
        import unstructured.partition.docx  # noqa: F401  # so that the first document does not pay for it
    finally:
        for name in absent:
            sys.modules.pop(name, None)
