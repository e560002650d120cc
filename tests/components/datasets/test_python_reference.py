"""Paragraphs of Python's reference: each once, with its chapter, from the experiment to predictions."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch

from trainctl.components.datasets.python_reference import paragraphs, python_reference
from trainctl.components.datasets.text import text
from trainctl.data import Split
from trainctl.errors import ConfigError


def test_a_paragraph_is_in_one_split_with_its_chapter() -> None:
    data = python_reference(length=16)
    train, test = data.train, data.test
    assert isinstance(train, Split)
    assert isinstance(test, Split)
    assert len(train) + len(test) == len(paragraphs()) > 1000
    assert train.inputs.shape[1:] == data.input_shape == (16,)
    assert torch.bincount(train.targets, minlength=8).min() >= 20
    assert torch.bincount(test.targets, minlength=8).min() >= 1
    (said,) = (chapter for each, chapter in paragraphs().items() if each.startswith("Assert statements are"))
    assert said == "simple statements"
    assert min(len(each.split()) for each in paragraphs()) == 8


def test_a_python_without_its_reference_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    for builder in (python_reference, text):
        with pytest.raises(ConfigError, match="without its reference"):
            builder()


def test_the_experiment_beats_the_commonest_chapter_and_predicts(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("experiment=reference_chapters", "threads=1", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["test"]["test/accuracy"] > 0.6
    outcome = trainctl("eval", "run")
    assert outcome.code == 0, outcome.err
    (tmp_path / "asked.csv").write_text("text\nContinue to the breakpoint at which the debugger stops.\n")
    outcome = trainctl("predict", "run", "--input", "asked.csv", "--output", "p.csv")
    assert outcome.code == 0, outcome.err
    with (tmp_path / "p.csv").open() as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == ["debugger"]
