"""Text files in windows of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.components.datasets.python_reference import reference
from trainctl.components.tasks.language_model import IGNORED
from trainctl.data import Data, Split
from trainctl.data.files import find_file
from trainctl.data.tokenizer import BYTES, read_tokenizer
from trainctl.data.types import split_rows
from trainctl.errors import ConfigError, MissingDataError, StorageError
from trainctl.registry import DATASETS, Count, Fraction, NonNegativeInt


@DATASETS.register("text")
def text(
    path: str | None = None,
    files: str = "*.txt",
    tokens: str = "bytes",
    context: Count = 128,
    test: Fraction | NonNegativeInt = 0.1,
    test_path: str | None = None,
    test_seed: NonNegativeInt = 0,
    like: Mapping[str, Any] | None = None,
) -> Data:
    """Text in windows of bytes, or other tokens, each of which predicts the next: for a language model.

    The windows of a file follow each other without overlap; each token of it but the first is predicted once,
    from those before it in its window. The last window of a file is filled up with what is ignored.

    Args:
        path: a file, or a folder; null is the reference of the language that comes with Python.
        files: of a folder, the pattern of the files' names, in its folders, too.
        tokens: bytes, or a tokenizer.json of Hugging Face's tokenizers (extra ``tokenizers``), which the run
            keeps.
        context: tokens of a window, and the most that a prediction sees.
        test: windows to hold out for the test, a count or a fraction; 0 for none.
        test_path: another file or folder to test on, in the place of ``test``.
        test_seed: chooses the windows of ``test``.

    ``like`` describes the text that a model was trained on: this one has its tokens.

    Shape: inputs (N, context) uint8 of bytes, else int32; targets (N, context) int64, -100 where nothing is
    to be predicted: nine bytes of memory for each of the text, or twelve for each token.

    Raises:
        ConfigError: for a folder without such files, and files without two bytes.
        MissingDataError: when the path is not there.
    """
    contents, source = _contents("path", path, files)
    tokenizer, described = read_tokenizer(tokens, like)
    encoded = [tokenizer.encode(content) for content in contents]
    train, held = _windows(encoded, context, source), None
    if test_path is not None:
        others, other_source = _contents("test_path", test_path, files)
        held = _windows([tokenizer.encode(content) for content in others], context, other_source)
    else:
        kept, chosen = split_rows(len(train), test, test_seed)
        train, held = train[kept], None if chosen is None else train[chosen]
    size, what = sum(map(len, encoded)), "bytes" if described["tokens"] == BYTES else "tokens"
    return Data(
        name="text",
        task="language_model",
        train=train,
        test=held,
        input_shape=(context,),
        output_size=tokenizer.size,
        transform=nn.Identity(),
        note=f"{source}: {size:,} {what} in windows of {context}",
        reading={"kind": "text", "context": context, **described},
    )


def _contents(key: str, path: str | None, pattern: str) -> tuple[list[bytes], str]:
    """What the files hold, in the order of their paths, and what they are called."""
    if path is None:
        topics = reference()
        return ["\n\n".join(topics[name] for name in sorted(topics)).encode()], "the reference of Python"
    place = Path(path).expanduser()
    if not place.is_dir():
        found = [_find(key, path)]
    else:
        found = sorted(each for each in place.rglob(pattern) if each.is_file())
    if not found:
        raise ConfigError(
            f"dataset.{key}={path}: has no files {pattern}", "name others: dataset.files='*.md'"
        )
    many = "" if len(found) == 1 else f", {len(found)} files"
    try:
        return [file.read_bytes() for file in found], f"{place.name or place}{many}"
    except OSError as error:
        raise StorageError(
            f"{error.filename} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error


def _find(key: str, path: str) -> Path:
    try:
        return find_file("text", key, path, "")
    except MissingDataError as error:
        problem = error.problems[0]
        raise MissingDataError(problem.message, problem.remedy, {"dataset": "text", key: None}) from error


def _windows(contents: Sequence[Tensor], context: int, source: str) -> Split:
    parts = [_windows_of(content, context) for content in contents if len(content) > 1]
    if not parts:
        raise ConfigError(
            f"{source}: no file has two bytes, or tokens, to predict one from the other", "name another"
        )
    inputs, targets = (torch.cat(each) for each in zip(*parts, strict=True))
    return Split(inputs, targets)


def _windows_of(tokens: Tensor, context: int) -> tuple[Tensor, Tensor]:
    rows = -(-(len(tokens) - 1) // context)
    inputs = torch.zeros(rows * context, dtype=tokens.dtype)
    targets = torch.full((rows * context,), IGNORED)
    inputs[: len(tokens) - 1], targets[: len(tokens) - 1] = tokens[:-1], tokens[1:]
    return inputs.view(rows, context), targets.view(rows, context)
