"""Write a run's model to one file for other programs, and check it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainctl.cli.options import CHECKPOINT, FORCE, RUN_OR_URL, TRUST, Command, Option, checked_output
from trainctl.errors import ConfigError, UnsafeInputError
from trainctl.paths import short_path
from trainctl.registry.constraints import show
from trainctl.training.startup import importing

_FORMATS = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
_LONGEST = 200
COMMAND = Command(
    __name__,
    __doc__,
    (RUN_OR_URL,),
    (
        Option("--format", "file format", choices=tuple(_FORMATS), example="onnx", required=True),
        Option(
            "--output",
            "output file (default: the run's name, in this folder)",
            value="FILE",
            example="model.onnx",
        ),
        FORCE,
        CHECKPOINT,
        TRUST,
    ),
    (
        ("The newest run, for onnxruntime.", "trainctl export last --format onnx"),
        (
            "The weights and how to use them, without code.",
            "trainctl export first --format safetensors --output model.safetensors",
        ),
    ),
    {1: "the file predicts otherwise than the run, or an internal error", 3: "", 4: ""},
)


def run(words: list[str]) -> int:
    """Write a run's model, by default to NAME.SUFFIX in the current folder.

    Raises ConfigError for a model that the format cannot hold, TrainctlError (exit 1) where the file predicts
    otherwise than the run, CheckpointError without a usable checkpoint, UnsafeInputError for changed plugins,
    StorageError where the file cannot be written.
    """
    asked = COMMAND.parse(words)
    kind = asked["--format"]
    output = None if asked["--output"] is None else _output_file(asked["--output"], kind)
    with importing():
        import torch

        from trainctl.inference.export import export, require
        from trainctl.inference.trained_run import load_run

    require(kind)
    trained = load_run(
        asked.run,
        asked["--checkpoint"],
        trust_plugins=asked["--trust-plugins"],
        device=torch.device("cpu"),
    )
    print(f"{short_path(trained.directory)}, {trained.checkpoint.name}")
    for notice in trained.notices:
        print(notice)
    if trained.config.train.precision != "fp32":
        print(f"trained in {trained.config.train.precision}: what is exported computes in float32")
    path = output or _named_file(trained.record.get("name"), trained.directory.name, kind)
    if path.exists() and not asked["--force"]:
        raise ConfigError(f"{short_path(path)} exists", "--force replaces it, --output FILE names another")
    written = export(trained, kind, path.absolute())
    print(f"takes {written.inputs}, gives {written.outputs}")
    print(f"read back by {written.read_by}: largest difference {written.difference:.1e} on {written.samples}")
    print(f"{short_path(written.path)}, {written.size:,} bytes")
    return 0


def _named_file(name: Any, directory: str, kind: str) -> Path:
    """The file in the current folder that a run's name gives. Raises UnsafeInputError for a path."""
    name = directory if name is None else name
    fine = isinstance(name, str) and name.isprintable() and 0 < len(name.encode()) <= _LONGEST
    if not fine or name in (".", "..") or set(name) & {"/", "\\"}:
        raise UnsafeInputError(
            f"run.json: {show(name)} is no name for a file", f"--output model{_FORMATS[kind]}"
        )
    return Path(f"{name}{_FORMATS[kind]}")


def _output_file(text: str, kind: str) -> Path:
    suffix = _FORMATS[kind]
    if Path(text).suffix.lower() != suffix:
        raise ConfigError(
            f"--output {text}: a file of --format {kind} ends in {suffix}",
            f"--output {Path(text).with_suffix(suffix) if Path(text).name else f'model{suffix}'}",
        )
    return checked_output("--output", text, f"model{suffix}", ConfigError)
