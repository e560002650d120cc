"""Paragraphs of Python's reference, each with its chapter."""

from __future__ import annotations

import torch
from torch import nn

from trainctl.data import Data, Split
from trainctl.data.tables.texts import Texts
from trainctl.data.tables.words import read_tokens, tokens_of
from trainctl.data.types import split_rows
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, Count

# Topics that are parts of others, such as those of "compound", are left out. Another Python may lack one.
_CHAPTERS = {
    "built-in types": "truth booleans typesseq typesseq-mutable string-methods typesmapping",
    "compound statements": "compound",
    "data model": "types specialnames",
    "debugger": "debugger",
    "expressions": "atom-identifiers attribute-references await binary bitwise calls comparisons conversions"
    " dict exprlists lambda lists operator-summary power shifting slicings subscriptions unary yield",
    "format strings": "formatstrings",
    "lexical analysis": "floating id-classes identifiers imaginary integers numbers strings",
    "simple statements": "assert assignment augassign break continue del global import nonlocal pass raise"
    " return",
}
_FEWEST = 8


@DATASETS.register("python_reference")
def python_reference(length: Count = 64) -> Data:
    """Some 1,400 paragraphs of the reference that comes with Python; the class is the chapter.

    A fifth is held out for the test. Headings and paragraphs of fewer than eight words are left out. Another
    Python has another text.

    Args:
        length: words and signs of a paragraph that are used.

    Shape: inputs (N, length) int32, a hash of each word or sign, 0 behind a text; targets (N,) int64.

    Raises:
        ConfigError: where Python comes without its reference.
    """
    found = paragraphs()
    classes = tuple(sorted(_CHAPTERS))
    reading = read_tokens("words", length, None)
    inputs, counts = tokens_of(Texts.of(found), reading)
    targets = torch.tensor([classes.index(chapter) for chapter in found.values()])
    kept, chosen = split_rows(len(found), 0.2, 0)
    assert chosen is not None
    reading |= {
        "columns": [{"name": "text", "number": 1, "kind": "text", "categories": []}],
        "targets": [{"name": "chapter", "number": 2, "kind": "text"}],
        "classes": list(classes),
        "named": True,
        "width": 2,
        "missing": "mean",
        "missing_marks": [],
    }
    return Data(
        name="python_reference",
        task="text_classification",
        train=Split(inputs[kept], targets[kept]),
        test=Split(inputs[chosen], targets[chosen]),
        input_shape=(length,),
        output_size=len(classes),
        transform=nn.Identity(),
        classes=classes,
        note=f"that of this Python; {int((counts > length).sum())} texts cut after {length} words",
        reading=reading,
    )


def paragraphs() -> dict[str, str]:
    """Each paragraph, on one line, and its chapter."""
    topics, found = reference(), dict[str, str]()
    for chapter, names in _CHAPTERS.items():
        for text in "\n\n".join(topics.get(name, "") for name in names.split()).split("\n\n"):
            words = text.split()
            if len(words) >= _FEWEST:
                found.setdefault(" ".join(words), chapter)
    return found


def reference() -> dict[str, str]:
    """The reference that comes with Python, by topic. Raises ConfigError where it is not there."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ConfigError(
            "this Python comes without its reference (pydoc_data)",
            "use text of your own: dataset=text dataset.path=FILE, dataset=csv_text dataset.path=FILE",
        ) from error
    return dict(topics)
