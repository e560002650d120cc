"""Write what was trained as one file, and check it: export RUN --format safetensors|torch|onnx."""

from __future__ import annotations

from pathlib import Path

from trainctl.cli.options import CHECKPOINT, parse
from trainctl.errors import ConfigError
from trainctl.paths import short_path
from trainctl.training.startup import importing

_FORMATS = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}


def run(words: list[str]) -> int:
    """Write the model of the run that the first word names, by default as NAME.SUFFIX in the current folder.

    Raises ConfigError for a model that the format cannot hold, TrainctlError (exit 1) where the file predicts
    something else than the run, CheckpointError without a usable checkpoint, UnsafeInputError for changed
    plugins, StorageError where the file cannot be written.
    """
    options = {"--format": tuple(_FORMATS), "--output": (), **CHECKPOINT}
    asked = parse("export", words, options, ("--trust-plugins",))
    kind = asked.needed("--format", "export", "--format onnx")
    output = Path(asked.options["--output"]).expanduser() if "--output" in asked.options else None
    if output is not None:
        _check_output(output, kind)
    with importing():
        import torch

        from trainctl.inference import export as exporting
        from trainctl.inference.trained_run import load_run

    exporting.require(kind)
    trained = load_run(
        asked.run,
        asked.options.get("--checkpoint", "best"),
        trust_plugins="--trust-plugins" in asked.flags,
        device=torch.device("cpu"),
    )
    print(f"{short_path(trained.directory)}, {trained.checkpoint.name}")
    for notice in trained.notices:
        print(notice)
    if trained.config.train.precision != "fp32":
        print(f"trained in {trained.config.train.precision}: what is exported computes in float32")
    path = output or Path(f"{trained.record.get('name') or trained.directory.name}{_FORMATS[kind]}")
    written = exporting.export(trained, kind, path.absolute())
    print(f"takes {written.inputs}, gives {written.outputs}")
    print(f"read back by {written.read_by}: largest difference {written.difference:.1e} on {written.samples}")
    print(f"{short_path(written.path)}, {written.size:,} bytes")
    return 0


def _check_output(output: Path, kind: str) -> None:
    if output.suffix.lower() != _FORMATS[kind]:
        raise ConfigError(
            f"--output {output}: a file of --format {kind} ends in {_FORMATS[kind]}",
            f"--output {output.with_suffix(_FORMATS[kind]) if output.name else f'model{_FORMATS[kind]}'}",
        )
    if output.is_dir():
        raise ConfigError(
            f"--output {output}: is a folder", f"name a file in it: {output}/model{_FORMATS[kind]}"
        )
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}", "make it first")
