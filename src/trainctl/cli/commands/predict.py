"""Predict the samples of a file or folder with a trained run."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainctl.cli.options import CHECKPOINT, FORCE, RUN_OR_URL, TRUST, Asked, Command, Option, whole_number
from trainctl.errors import ConfigError
from trainctl.paths import short_path
from trainctl.training.display import duration
from trainctl.training.startup import importing

if TYPE_CHECKING:
    from trainctl.inference.trained_run import Trained


def _temperature(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ConfigError(f"{option} {text}: must be a number of at least 0", f"{option} 0.8")
    return value


COMMAND = Command(
    __name__,
    __doc__,
    (RUN_OR_URL,),
    (
        Option(
            "--input",
            "a CSV, Parquet or .npz file, an image, or a folder of images",
            value="FILE|FOLDER",
            example="new.csv",
            required=True,
            unless="--prompt",
        ),
        Option(
            "--output",
            "predictions, a line for each sample: .csv or .jsonl; of masks a folder",
            "FILE|FOLDER",
            example="predictions.csv",
            required=True,
            unless="--prompt",
        ),
        FORCE,
        whole_number(
            "--batch-size",
            "samples at a time (default: as in training, or more)",
            example="256",
        ),
        Option(
            "--threshold",
            "of several labels a sample: predict those from this probability on (default: 0.5)",
            "P|LABEL=P,…",
            example="0.3",
        ),
        Option("--prompt", "of a language model: print how this text goes on", "TEXT", example="The "),
        whole_number("--length", "how many tokens of it", "200"),
        Option(
            "--temperature",
            "below 1 likely tokens become likelier; 0: always the likeliest",
            "T",
            default="1",
            read=_temperature,
        ),
        whole_number("--seed", "of the draws", "0", least=0),
        CHECKPOINT,
        TRUST,
    ),
    (
        ("The rows of a table.", "trainctl predict last --input new.csv --output out.csv"),
        ("A text goes on.", 'trainctl predict last --prompt "The for statement"'),
    ),
    {3: "", 4: ""},
)


def run(words: list[str]) -> int:
    """Predict every sample of a file with a run, or print how a text goes on.

    Inputs are prepared as in training, with its statistics, categories and class names. A sample that cannot
    be read gets a line with the reason; the exit code is 0 unless that holds for all samples.

    Raises ConfigError for an input that does not fit the run, CheckpointError without a usable checkpoint,
    UnsafeInputError for changed plugins, StorageError where the output cannot be written.
    """
    asked = COMMAND.parse(words)
    if asked["--prompt"] is not None:
        return _continue(asked)
    source, output = Path(asked["--input"]).expanduser(), Path(asked["--output"]).expanduser()
    with importing():
        from trainctl.inference.trained_run import load_run
        from trainctl.inference.writers import check_output

    trained = load_run(asked.run, asked["--checkpoint"], trust_plugins=asked["--trust-plugins"])
    check_output(output, source, trained.task, replace=bool(asked["--force"]))
    if asked["--threshold"] is not None:
        trained = replace(trained, task=trained.task.with_threshold(asked["--threshold"], trained.classes))
    print(f"{short_path(trained.directory)}, {trained.checkpoint.name}")
    for notice in trained.notices:
        print(notice)
    _predict(trained, source, output, asked["--batch-size"])
    return 0


def _continue(asked: Asked) -> int:
    if asked["--input"] or asked["--output"]:
        raise ConfigError("--prompt: its text is printed", "leave out --input and --output")
    with importing():
        from trainctl.inference.trained_run import load_run

    prompt: str = asked["--prompt"]
    trained = load_run(asked.run, asked["--checkpoint"], trust_plugins=asked["--trust-plugins"])
    draws = asked["--length"], asked["--temperature"], asked["--seed"]
    pieces = trained.task.continued(trained.model, prompt, trained.reading, *draws)
    first = next(iter(pieces), "")
    for notice in trained.notices:
        print(notice)
    print(prompt, first, sep="", end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def _predict(trained: Trained, source: Path, output: Path, size: int | None) -> None:
    from trainctl.inference.predict import Predictor, open_samples, predict
    from trainctl.inference.readers import open_source
    from trainctl.inference.writers import open_writer
    from trainctl.ui.prediction import progress

    opened, size = open_samples(trained, open_source, source, size)
    for notice in opened.notices:
        print(notice)
    predictor = Predictor(trained, trained.transform())
    writer = open_writer(output, opened, trained)
    started = time.perf_counter()
    with progress(opened.total, opened.unit) as shown:
        outcome = predict(
            predictor,
            opened,
            writer,
            size,
            lambda far: shown(opened.done, far.samples, far.bad),
        )
    for reason in outcome.errors:
        print(f"no prediction: {reason}")
    if outcome.bad > len(outcome.errors):
        print(f"no prediction: {outcome.bad - len(outcome.errors):,} more")
    for remark in opened.remarks():
        print(remark)
    bad = f", {outcome.bad:,} without a prediction: see its column error" if outcome.bad else ""
    if not outcome.samples:
        print(f"{source} has no {opened.unit}s: there is nothing to predict")
    took = duration(time.perf_counter() - started)
    many = f"{outcome.samples:,} {opened.unit}{'' if outcome.samples == 1 else 's'}"
    print(f"{many} in {took}: {short_path(output.absolute())}{bad}")
