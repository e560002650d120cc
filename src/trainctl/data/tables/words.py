"""Texts of a table as numbers: a hash for each word, each byte, or the tokens of a tokenizer."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trainctl.data.tables.texts import Texts
from trainctl.data.tokenizer import BYTES, FromFile, read_tokenizer

_WORD = re.compile(r"\w+|[^\w\s]")
_LARGEST = 2**31 - 1
_WORDS = "words"


def read_tokens(tokens: str, length: int, like: Mapping[str, Any] | None) -> dict[str, Any]:
    """How texts become numbers: the ``reading`` of ``dataset.tokens``, words, bytes or a tokenizer's file, in
    whose place the run that ``like`` describes may have one.

    Raises ConfigError for a file that is not there or is no tokenizer.
    """
    if tokens in (_WORDS, BYTES):
        described = {"tokens": tokens}
    else:
        kept = like if like is not None and "tokenizer" in like else None
        _, described = read_tokenizer(tokens, kept, f"{_WORDS}, {BYTES}")
    return {"kind": "texts", **described, "length": length}


def tokens_of(texts: Texts, reading: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The first ``reading["length"]`` tokens of each text, (N, length) int32; and how many it has, (N,).

    A word in small letters, or a sign, is its CRC-32 modulo 2³¹ - 1, plus 1: the same everywhere, and 0 is
    left for what fills up a text. A byte, or a token of a tokenizer, is its number plus 1.
    """
    found = [_tokens(text or "", reading) for text in texts.unique]
    length = reading["length"]
    table = torch.zeros(len(found), length, dtype=torch.int32)
    for row, tokens in enumerate(found):
        table[row, : len(tokens)] = torch.tensor(tokens[:length], dtype=torch.int32)
    rows = torch.from_numpy(texts.codes).to(torch.int64)
    return table[rows], torch.tensor([len(tokens) for tokens in found])[rows]


def _tokens(text: str, reading: Mapping[str, Any]) -> list[int]:
    if reading["tokens"] == BYTES:
        return [byte + 1 for byte in text.encode("utf-8", "replace")]
    if "tokenizer" in reading:
        found = _tokenizer(reading["tokenizer"]).encode(text.encode("utf-8", "replace"))
        return (found + 1).tolist()
    words = (word.encode("utf-8", "replace") for word in _WORD.findall(text.lower()))
    return [zlib.crc32(word) % _LARGEST + 1 for word in words]


def unit_of(reading: Mapping[str, Any]) -> str:
    """What a text is made of, for messages."""
    return "tokens" if "tokenizer" in reading else str(reading["tokens"])


@lru_cache(maxsize=1)  # a file is predicted block by block
def _tokenizer(content: str) -> FromFile:
    return FromFile(content, "the run's tokenizer")
