"""Command lines that nobody would type, and some that people do: an exit code of the list, no traceback."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

from tests.reliability.children import Trial, spawn
from tests.reliability.runs import OUTPUTS, RUN, Patch
from trainctl.cli import main as program
from trainctl.cli.commands import verbs
from trainctl.errors import TrainctlError

_KEYS = (
    "lr", "epochs", "batch_size", "seed", "model", "optim", "dataset", "loss", "scheduler", "loader",
    "loop", "train.epochs", "train.batch_size", "train.accumulate", "train.metrics", "train.monitor",
    "train.patience", "train.clip_norm", "optim.lr", "optim.weight_decay", "optim.betas", "model.hidden",
    "model.dropout", "model.activation", "dataset.val", "dataset.augment", "device", "threads", "name",
    "init_from", "plugins", "checkpoint.every_steps", "checkpoint.keep_last", "guard.skip", "display.every",
    "experiment", "deterministic", "train.precision", "loader.workers", "hydra.job.name",
)  # fmt: skip
_WRONG_KEYS = (
    "lrr", "model.hiden", "train", "train.", ".lr", "a.b.c.d", "optim.lr.x", "ünï", "模型", "_target_",
    "hydra.x", "model._target_", "0", "-", "train.epochs.epochs", "🙂", "model.hidden[0]", "model@x",
    "optim@train", " ", "",
)  # fmt: skip
_VALUES = (
    "1", "0", "-1", "1e-3", "nan", "inf", "-inf", "1e400", "abc", "null", "true", "[]", "[8]", "[8,",
    "[[8]]", "[8,-1]", "{}", "{a:1}", "{a", "'", '"', "''", "${lr}", "${oc.env:HOME}", "${nothing.here}",
    "${", "${oc.env:}", "1,2", "a b", "ünï", "🙂", "\t", "~", "\\", "../../x", "/dev/null", "mlp", "cnn",
    "adam", "cosine", "digits", "relu", "cpu", "cuda:7", "auto", "last", "()", "range(3)", "choice(a,b)",
    "sort(3,1)", "glob(*)", "9" * 30, "_target_", "{_target_:os.mkdir}", "0x10", "1_000", "yes", "off", "=",
    "==", "a=b", "[a=b]", "null,null", "!!x", "&a", "*a", "x" * 300, "'a b'", "\u0001", "\u202e", "%s",
    "{0}", "$(ls)", "`ls`", "; ls",
)  # fmt: skip
_RIGHT = (
    "lr=1e-3", "model=cnn", "model=linear", "model=sequential", "model=lenet", "optim=sgd", "optim=muon",
    "optim=adamw", "scheduler=cosine", "scheduler=one_cycle", "scheduler=reduce_on_plateau", "loss=mse",
    "loss=nll", "loss=cross_entropy", "dataset=synthetic", "dataset.task=regression", "dataset.val=0.2",
    "dataset.val=0", "dataset=mnist", "dataset=csv", "dataset=image_folder", "model.hidden=[8]",
    "model.dropout=0.5", "seed=3", "threads=1", "batch_size=7", "train.accumulate=3", "train.clip_norm=1",
    "train.metrics=[accuracy,f1]", "train.precision=bf16", "train.monitor=val/accuracy", "train.patience=1",
    "guard=full", "guard.skip=2", "checkpoint.every_steps=1", "checkpoint.overlap=false", "loop=layers",
    "loop=parameters", "loop=derivatives", "loader=scratch", "loader=resident", "experiment=two_layer",
    "experiment=digits_cosine", "init_from=last", "name=mine", "deterministic=true", "display.mode=plain",
    "display.mode=rich", "device=cpu",
)  # fmt: skip
_OPTIONS = (
    "--cfg=job", "--cfg=hydra", "--cfg=all", "--cfg=x", "--resolve", "--info", "--info=defaults",
    "--info=x", "-c", "--package=model", "--version", "--help", "-h", "--hydra-help", "--config-name=x",
    "--config-dir=nowhere", "--config-dir=.", "--config-path=x", "-m", "--multirun", "--nonsense", "-x",
    "--", "---", "-sc=install=bash", "-sc", "--run", "--experimental-rerun=x", "--package", "-p", "--cfg",
)  # fmt: skip
_ARGUMENTS = (
    "outputs/run", "last", "outputs", "nowhere", "", ".", "/", "/dev/null", "--allow-change",
    "--trust-plugins", "--nonsense", "-h", "-m", "lr=1e-3", "lr=abc", "model", "model=mlp", "model=nothing",
    "metric", "optim=adam", "=", "x=y=z", "🙂", "train.epochs=nan", "model=cnn", "checkpoint.keep_last=2",
    "seed=1", "~lr", "+x=1", "--port=x", "train.max_steps=1", "hydra.run.dir=x", "outputs/run/checkpoints",
    "outputs/run/run.json", "1", "-1",
)  # fmt: skip
_PREFIXES = ("+", "++", "~", "-", "--", " ")
# What a valid line trains takes a step.
_SHORT = ("train.max_steps=1", "display.mode=none", "train.batch_size=16")
_CODES = (0, 2, 3)


def lines(count: int, seed: int) -> list[list[str]]:
    """Command lines, the same ones for the same seed."""
    draw, known = random.Random(seed), [*verbs(), "nonsense", "train"]
    found = []
    for number in range(count):
        if number % 3 == 0:
            arguments = draw.sample(_ARGUMENTS, draw.choice((0, 1, 1, 2, 3)))
            found.append([known[number // 3 % len(known)], *arguments])
            continue
        made = [
            *draw.sample(_RIGHT, draw.choice((0, 1, 2, 3))),
            *(_word(draw) for _ in range(draw.choice((0, 1, 1, 2)))),
        ]
        draw.shuffle(made)
        if number % 5 == 0:
            made.insert(draw.randrange(len(made) + 1), draw.choice(_OPTIONS))
        found.append([*made, *_SHORT])
    return found


def _word(draw: random.Random) -> str:
    key = draw.choice(_KEYS if draw.random() < 0.75 else _WRONG_KEYS)
    equals = "=" if draw.random() < 0.9 else draw.choice(("", "==", " = "))
    prefix = "" if draw.random() < 0.7 else draw.choice(_PREFIXES)
    return prefix + key + equals + draw.choice(_VALUES)


def typed(run: Path, count: int, seed: int) -> list[Trial]:
    """The lines, typed where the finished ``run`` is the last one."""
    return [Trial(repr(words), partial(_typed, words, run)) for words in lines(count, seed)]


def bites(run: Path) -> list[Trial]:
    """The same with a fault in the program: the line that meets it must be missed."""

    def noticed(patch: Patch, words: list[str], folder: Path) -> str | None:
        return None if _typed(words, run, folder, patch) is not None else "nothing was missed"

    return [Trial(fault, partial(noticed, *each)) for fault, each in FAULTS.items()]


def _errors_untold() -> None:
    program.answered = lambda work: work()


def _errors_internal() -> None:
    program.as_told = lambda error, doing: TrainctlError(f"internal error: {error}")


def _errors_unsaid() -> None:
    program.show_error = lambda error: None


FAULTS: dict[str, tuple[Patch, list[str]]] = {
    "errors are raised": (_errors_untold, ["lrr=1"]),
    "errors are internal": (_errors_internal, ["export", "nowhere"]),
    "errors are not shown": (_errors_unsaid, ["lr=abc", *_SHORT]),
}
"""The fault, and a line that meets it."""


def _typed(words: list[str], run: Path, folder: Path, patch: Patch = lambda: None) -> str | None:
    shutil.copytree(run, folder / RUN, symlinks=True)
    (folder / OUTPUTS / "latest").symlink_to("run")

    def work() -> int:
        patch()
        return program.main(words)

    # One of the lines is `smoke`, which tries every component: a minute and more.
    ended = spawn(work, folder, timeout=240)
    allowed = (*_CODES, 4) if words[0] in verbs() else _CODES
    if ended.timed_out or ended.code not in allowed:
        return str(ended)
    if "Traceback (" in ended.text or "error: internal" in ended.text:
        return f"said the wrong thing: {ended}"
    if ended.code and "error:" not in ended.text:
        return f"said nothing: {ended}"
    return None
