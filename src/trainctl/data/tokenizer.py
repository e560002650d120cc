"""Tokens of texts: bytes, or those of a file of Hugging Face's ``tokenizers``, which a run keeps."""

from __future__ import annotations

import codecs
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainctl.errors import ConfigError

BYTES = "bytes"
_NO_CHARACTER = "�"


class Tokenizer(Protocol):
    """Text to numbers and back. ``size`` is how many different ones there are."""

    size: int

    def encode(self, content: bytes) -> Tensor:
        """The tokens of a text, (tokens,) of whole numbers."""

    def decoded(self, before: Sequence[int], drawn: Iterator[int], length: int) -> Iterator[str]:
        """The text of ``length`` tokens behind those of ``before``, piece by piece, whole characters each."""


class Bytes:
    """The bytes of a text."""

    size = 256

    def encode(self, content: bytes) -> Tensor:
        return torch.from_numpy(np.frombuffer(content, np.uint8).copy())

    def decoded(self, before: Sequence[int], drawn: Iterator[int], length: int) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for number, token in enumerate(drawn, 1):
            yield decoder.decode(bytes([token]), final=number == length)


class FromFile:
    """The tokenizer that a ``tokenizer.json`` describes, here by its ``content``."""

    def __init__(self, content: str, where: str) -> None:
        if importlib.util.find_spec("tokenizers") is None:
            raise ConfigError(
                f"{where}: tokenizers is not installed", "install it: pip install 'trainctl[tokenizers]'"
            )
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_str(content)
        except Exception as error:  # the library raises nothing narrower
            raise ConfigError(
                f"{where}: is no tokenizer: {str(error).partition(chr(10))[0]}",
                "give a tokenizer.json of Hugging Face's tokenizers, or bytes",
            ) from error
        self.size = self._library.get_vocab_size()

    def encode(self, content: bytes) -> Tensor:
        found = self._library.encode(content.decode("utf-8", "replace"), add_special_tokens=False)
        return torch.tensor(found.ids, dtype=torch.int32)

    def decoded(self, before: Sequence[int], drawn: Iterator[int], length: int) -> Iterator[str]:
        tokens = list(before)
        said = self._library.decode(tokens, skip_special_tokens=False)
        for number, token in enumerate(drawn, 1):
            tokens.append(token)
            text = self._library.decode(tokens, skip_special_tokens=False)
            # A character may need several tokens.
            if number < length and text.endswith(_NO_CHARACTER):
                continue
            yield text[len(said) :]
            said = text


def read_tokenizer(
    tokens: str, like: Mapping[str, Any] | None, others: str = BYTES
) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of ``dataset.tokens``, or of the run that ``like`` describes, and its description.

    ``others`` are the values that need no file. Raises ConfigError for a file that is not there or is no
    tokenizer.
    """
    if like is not None and "tokens" in like:
        return stored_tokenizer(like), {key: like[key] for key in ("tokens", "tokenizer") if key in like}
    if tokens == BYTES:
        return Bytes(), {"tokens": BYTES}
    where = f"dataset.tokens={tokens}"
    try:
        content = Path(tokens).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be read: {error}", f"{others}, or a tokenizer.json") from error
    return FromFile(content, where), {"tokens": "tokenizer", "tokenizer": content}


def stored_tokenizer(reading: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a run. Raises ConfigError where it has none."""
    if reading.get("tokens") == BYTES:
        return Bytes()
    if not isinstance(reading.get("tokenizer"), str):
        raise ConfigError("the run's tokens are not those of a text", "use dataset=text")
    return FromFile(reading["tokenizer"], "the run's tokenizer")
