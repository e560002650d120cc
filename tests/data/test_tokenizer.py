"""A tokenizer of a file: its tokens are learned, kept with the run, and turned into text again."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainctl.data.tokenizer import read_tokenizer
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS

if importlib.util.find_spec("tokenizers") is None:
    pytest.skip("tokenizers is not installed", allow_module_level=True)

TEXT = "the häuser are new, the houses are old; " * 60


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A byte-level tokenizer of 300 tokens: a character may need several of them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT.replace("ä", "")], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "tokenizer.json"


def test_tokens_are_text_again_and_no_character_is_cut(made: Path) -> None:
    tokenizer, described = read_tokenizer(str(made), None)
    tokens = tokenizer.encode(TEXT.encode()).tolist()
    assert len(tokens) < len(TEXT) / 2
    assert 256 < tokenizer.size <= 300
    pieces = list(tokenizer.decoded(tokens[:3], iter(tokens[3:]), len(tokens) - 3))
    first = next(tokenizer.decoded([], iter([tokens[0]]), 1))
    assert TEXT.startswith(first)
    assert TEXT.endswith("".join(pieces))
    assert not any("�" in piece for piece in pieces)
    again, same = read_tokenizer("bytes", described)
    assert again.encode(TEXT.encode()).tolist() == tokens
    assert same == described


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), ("{}", "is no tokenizer"), ("\xff", "is no tokenizer")]
)
def test_what_is_no_tokenizer_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        DATASETS.load("text")(tokens=str(tmp_path / "tokenizer.json"))


def test_a_run_keeps_its_tokenizer(made: Path, trainctl: Callable[..., Any]) -> None:
    words = (
        "dataset=text", "dataset.path=text.txt", "dataset.tokens=tokenizer.json", "dataset.context=8",
        "model=transformer", "model.width=32", "model.depth=1", "lr=0.01", "threads=1", "display.mode=none",
        "train.batch_size=8",
    )  # fmt: skip
    outcome = trainctl(*words, "epochs=8", "checkpoint.every_steps=3", "name=run")
    assert outcome.code == 0, outcome.err
    scored = json.loads(trainctl("eval", "run", "--json").out)
    made.unlink()
    assert json.loads(trainctl("eval", "run", "--json").out) == scored
    outcome = trainctl("predict", "run", "--prompt", "the ", "--length", "30", "--temperature", "0")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("the ")
    assert "häuser are new" in outcome.out
    assert trainctl("resume", "run", "epochs=9").code == 0
