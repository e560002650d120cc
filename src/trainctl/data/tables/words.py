"""Texts of a table as numbers: a hash for each word, or each byte."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainctl.data.tables.texts import Texts

_WORD = re.compile(r"\w+|[^\w\s]")
_LARGEST = 2**31 - 1


def tokens_of(texts: Texts, reading: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """The first ``reading["length"]`` tokens of each text, (N, length) int32; and how many it has, (N,).

    A word in small letters, or a sign, is its CRC-32 modulo 2³¹ - 1, plus 1: the same everywhere, and 0 is
    left for what fills up a text. A byte is its value plus 1.
    """
    found = [_tokens(text or "", reading["tokens"]) for text in texts.unique]
    length = reading["length"]
    table = torch.zeros(len(found), length, dtype=torch.int32)
    for row, tokens in enumerate(found):
        table[row, : len(tokens)] = torch.tensor(tokens[:length], dtype=torch.int32)
    rows = torch.from_numpy(texts.codes).to(torch.int64)
    return table[rows], torch.tensor([len(tokens) for tokens in found])[rows]


def _tokens(text: str, kind: str) -> list[int]:
    if kind == "bytes":
        return [byte + 1 for byte in text.encode("utf-8", "replace")]
    words = (word.encode("utf-8", "replace") for word in _WORD.findall(text.lower()))
    return [zlib.crc32(word) % _LARGEST + 1 for word in words]
