"""The transformer of experiment=text_transformer beside n-gram models of the same text, and its step beside
a hand-written loop.

    python benchmarks/language_model.py [--words train.epochs=2 …] [--steps 20] [--rounds 5]

The n-gram models are fitted on the same training windows and score the same test windows, byte by byte, with
what they may see of each window. Of a byte's probability after two others, those after one and after none are
a part, by the rule of Witten and Bell (1991). The hand-written loop has the same model, batches in memory,
and torch's own fused AdamW; both take turns, and processor time is measured, which other processes leave
alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRAINCTL_PICTURES", "0")

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from trainctl.cli.main import main as trainctl
from trainctl.components.tasks.language_model import IGNORED
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.data import Split
from trainctl.training.build import build

EXPERIMENT = "experiment=text_transformer"
Array = np.ndarray[Any, Any]


def grams(split: Split, length: int) -> Array:
    """All runs of ``length`` bytes within the windows, (N, length), the last one a target."""
    windows = np.concatenate([split.inputs[:, :1].numpy().astype(np.int64), split.targets.numpy()], 1)
    rows = np.lib.stride_tricks.sliding_window_view(windows, length, axis=1).reshape(-1, length)
    return rows[(rows != IGNORED).all(1)]


def keys(rows: Array) -> Array:
    return (rows.astype(np.int64) * (256 ** np.arange(rows.shape[1] - 1, -1, -1))).sum(1)


class NGrams:
    """Counts of runs of up to ``length`` bytes."""

    def __init__(self, split: Split, length: int) -> None:
        self.length = length
        self.counts: list[dict[str, Array]] = []
        for size in range(1, length + 1):
            # The first byte of a window is seen, not predicted.
            seen, count = np.unique(keys(grams(split, max(size, 2))[:, -size:]), return_counts=True)
            contexts, place = np.unique(seen // 256, return_inverse=True)
            self.counts.append(
                {
                    "seen": seen,
                    "count": count,
                    "contexts": contexts,
                    "total": np.bincount(place, weights=count),
                    "kinds": np.bincount(place),
                }
            )

    def probabilities(self, rows: Array) -> Array:
        """Of the last byte of each row, given those before it."""
        chance = np.full(len(rows), 1 / 256)
        for size in range(1, min(self.length, rows.shape[1]) + 1):
            table, run = self.counts[size - 1], keys(rows[:, -size:])
            count = _looked_up(table["seen"], table["count"], run)
            total = _looked_up(table["contexts"], table["total"], run // 256)
            kinds = _looked_up(table["contexts"], table["kinds"], run // 256)
            known = total > 0
            chance[known] = ((count + kinds * chance) / np.maximum(total + kinds, 1))[known]
        return chance

    def loss(self, split: Split) -> float:
        """Mean negative log-likelihood of a byte of the windows."""
        windows = np.concatenate([split.inputs[:, :1].numpy().astype(np.int64), split.targets.numpy()], 1)
        total, count = 0.0, 0
        for place in range(1, windows.shape[1]):
            rows = windows[:, max(0, place - self.length + 1) : place + 1]
            rows = rows[rows[:, -1] != IGNORED]
            total -= float(np.log(self.probabilities(rows)).sum())
            count += len(rows)
        return total / count


def _looked_up(known: Array, values: Array, wanted: Array) -> Array:
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, values[place], 0)


def by_hand(words: list[str], steps: int) -> Any:
    """A function that takes ``steps`` steps of the same model in a loop as one would write it."""
    built = build(Composer().compose(list(map(to_hydra, words))).config)
    model, split = built.run.model, built.run.train_loader.split  # type: ignore[attr-defined]
    size = built.run.train_loader.batch_size  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, fused=True)
    inputs, targets = split.inputs.to(torch.int64), split.targets

    def take() -> None:
        order = torch.randperm(len(inputs))
        for step in range(steps):
            index = order[step * size : (step + 1) * size]
            logits = model(inputs[index]).transpose(1, 2)
            loss = cross_entropy(logits.reshape(-1, 256), targets[index].reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return take


def ours(words: list[str], steps: int) -> Any:
    run = build(Composer().compose(list(map(to_hydra, words))).config).run

    def take() -> None:
        for number, batch in enumerate(run.train_loader.batches()):
            if number == steps:
                return
            run.step(run.model, run.criterion, run.optimizer, batch.inputs, batch.targets, run.precision)

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--words", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    words = [EXPERIMENT, *asked.words]
    data = build(Composer().compose(list(map(to_hydra, words))).config).data
    assert isinstance(data.train, Split)
    assert isinstance(data.test, Split)
    for length in (3, 5):
        loss = NGrams(data.train, length).loss(data.test)
        print(f"{length}-gram      loss {loss:.4f}  perplexity {math.exp(loss):.3f}", flush=True)
    takes = {"by hand": by_hand(words, asked.steps), "trainctl": ours(words, asked.steps)}
    times: dict[str, list[float]] = {name: [] for name in takes}
    for _ in range(asked.rounds + 1):
        for name, take in takes.items():
            started = time.process_time()
            take()
            times[name].append((time.process_time() - started) / asked.steps)
    middle = {name: statistics.median(each[1:]) for name, each in times.items()}
    for name, seconds in middle.items():
        print(f"{name:10}  {1000 * seconds:.1f} ms a step", flush=True)
    print(f"speed       {middle['by hand'] / middle['trainctl']:.2f} of the hand-written loop", flush=True)
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    if trainctl([*words, "display.mode=plain", f"hydra.run.dir={folder / 'run'}"]):
        raise SystemExit(1)
    record = json.loads((folder / "run" / "run.json").read_text())
    print(record["test"], f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
