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


def test_texts_of_a_table_are_its_tokens_and_the_run_keeps_it(
    made: Path, trainctl: Callable[..., Any]
) -> None:
    from tokenizers import Tokenizer

    rows = [
        (f"the {('houses', 'häuser')[n % 2]} are {('old', 'new')[n // 2 % 2]}; {n % 7}", n % 2)
        for n in range(160)
    ]
    lines = ["text,kind", *(f"{text},{('east', 'west')[kind]}" for text, kind in rows)]
    Path("t.csv").write_text("\n".join(lines))
    data = DATASETS.load("csv_text")("t.csv", tokens="tokenizer.json", length=9, test=0)
    library = Tokenizer.from_file("tokenizer.json")
    for row in (0, 7):
        ids = [each + 1 for each in library.encode(rows[row][0], add_special_tokens=False).ids]
        assert data.train.inputs[row].tolist() == (ids + [0] * 9)[:9]
    assert "texts of column 1 (text) in tokens" in data.note
    words = (
        "dataset=csv_text", "dataset.path=t.csv", "dataset.tokens=tokenizer.json", "dataset.length=9",
        "model=embedding_bag", "model.buckets=512", "lr=0.05", "threads=1", "display.mode=none",
    )  # fmt: skip
    outcome = trainctl(*words, "epochs=6", "checkpoint.every_steps=2", "name=run")
    assert outcome.code == 0, outcome.err
    scored = json.loads(trainctl("eval", "run", "--json").out)
    assert scored["values"]["test/accuracy"] == 1
    made.unlink()
    assert json.loads(trainctl("eval", "run", "--json").out) == scored
    outcome = trainctl("predict", "run", "--input", "t.csv", "--output", "p.csv")
    assert outcome.code == 0, outcome.err
    assert "texts cut after 9 tokens, as in training" in outcome.out + outcome.err
    predicted = [line.split(",")[1] for line in Path("p.csv").read_text().splitlines()[1:]]
    assert predicted == [("east", "west")[kind] for _, kind in rows]
    assert trainctl("resume", "run", "epochs=7").code == 0
    refused = trainctl("eval", "run", "dataset.tokens=words")
    assert refused.code == 2
    assert "the model was trained with dataset.tokens=tokenizer" in refused.err
    outcome = trainctl(*words, "epochs=1")
    assert "dataset.tokens=tokenizer.json: cannot be read" in outcome.err
    assert "words, bytes, or a tokenizer.json" in outcome.err
