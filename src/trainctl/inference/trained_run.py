"""From a run directory to its trained model and the inputs that the model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.checkpoint.format import CheckpointData
from trainctl.checkpoint.mirrored import located
from trainctl.checkpoint.retention import read_chosen
from trainctl.components.tasks._base import Task, task_named
from trainctl.config.connections import without_download
from trainctl.config.settings import Config
from trainctl.config.stored_config import read_config
from trainctl.data import Data
from trainctl.data.fingerprint import differences, refusal
from trainctl.data.inputs import Shape, made_shape
from trainctl.data.preprocessing import describe_samples, first_samples, make_transform
from trainctl.data.readout import Readout
from trainctl.errors import CheckpointError, ConfigError
from trainctl.inference.winner import winner
from trainctl.registry import TASKS, trust
from trainctl.registry.protocols import Model
from trainctl.runs.bucket import is_url
from trainctl.runs.directory import is_training
from trainctl.runs.record import read_record
from trainctl.training import runtime
from trainctl.training.construct import build_model, construct
from trainctl.training.prepare_data import build_data
from trainctl.training.targets import output_of, prepare_targets

_DTYPES = {str(each).removeprefix("torch.") for each in vars(torch).values() if isinstance(each, torch.dtype)}


@dataclass(frozen=True)
class Trained:
    """A trained model with the description of its inputs and outputs.

    Attributes:
        directory, record, config: the run.
        checkpoint, content: the checkpoint's folder and its content.
        model: in evaluation mode, on ``device``.
        task, input_shape, output_size: the model's inputs and outputs.
        classes: one name a class; empty for a task without classes.
        class_counts: training samples a class; None for a task without classes.
        raw: shape and type of one raw sample, see :func:`trainctl.data.preprocessing.describe`.
        reading: how raw samples are read from files.
        readout: from the model's outputs to values in the unit of the data, on ``device``.
        notices: warnings to print before any result.
        same_environment: whether torch and device are those of training, and it was not a fused sweep's.
    """

    directory: Path
    record: Mapping[str, Any]
    config: Config
    checkpoint: Path
    content: CheckpointData
    model: Model
    device: torch.device
    task: Task
    input_shape: Shape
    output_size: int
    classes: tuple[str, ...]
    class_counts: Tensor | None
    raw: Mapping[str, Any] | None
    reading: Mapping[str, Any]
    readout: Readout
    notices: tuple[str, ...]
    same_environment: bool

    @property
    def step(self) -> int:
        return self.content.step

    def raw_sample(self) -> Mapping[str, Any]:
        """Shape and type of one raw sample; taken from the dataset where the run has not stored them."""
        if self.raw is not None:
            return self.raw
        return describe_samples(first_samples(build_data(self.config.dataset, self.reading).train, 1))

    def changes_of(self, data: Data, *splits: str) -> list[str]:
        """How these splits of ``data`` differ from the run's, in words."""
        if not self.readout.fits(data.output_size):
            return ["other targets"]
        return differences(self.content.state, data, splits=splits)

    def prepared(self, data: Data) -> Data:
        """``data`` with the targets that the run's loss takes."""
        return data if data.readout is not None else prepare_targets(data, self.readout)

    def criterion(self) -> Any:
        """The run's loss, on ``device``."""
        return construct(self.config.loss, class_counts=self.class_counts, task=self.task.name).to(
            self.device
        )

    def transform(self) -> nn.Module:
        """The module that turns a raw batch into the model's input, as in training, on ``device``.

        A custom transform is built again by its dataset, from the training data. Raises CheckpointError for a
        damaged description, ConfigError where that data has changed.
        """
        described = self.content.state["data"].get("transform")
        if described is None:
            data = build_data(self.config.dataset, self.reading)
            if found := self.changes_of(data, "train"):
                raise ConfigError(
                    f"dataset={self.config.dataset.name} fits its transform to its data: {refusal(found)}",
                    "restore the training data",
                )
            return data.transform.to(self.device)
        try:
            return make_transform(described).to(self.device)
        except ValueError as error:
            raise CheckpointError(f"{self.checkpoint} holds {error}") from error


def load_run(
    run: str | Path,
    which: str = "best",
    *,
    trust_plugins: bool = False,
    device: torch.device | None = None,
) -> Trained:
    """The ``best`` or ``last`` model of a run, or of a sweep's best one, and all that is needed to use it.

    ``device`` defaults to the run's, with its number of threads so that results are the same to the last
    digit, and to the CPU where that device is missing.

    Raises ConfigError where there is no run, CheckpointError without a usable checkpoint, UnsafeInputError
    for changed plugins and unsafe files.
    """
    directory, said = located(run)
    directory, best = winner(directory)
    record = read_record(directory)
    if not (directory / "config.yaml").is_file():
        raise _no_checkpoint(directory, record)
    trusted = trust.checker(directory, trust_plugins=trust_plugins)
    config = read_config(directory / "config.yaml", trusted)
    if not trust_plugins:
        config = without_download(config, directory)
    if not record.get("best") and not any((directory / "checkpoints").glob("step-*")):
        raise _no_checkpoint(directory, record)
    chosen, content, damaged = read_chosen(directory, record, which, training=False)
    notices = [*best, *said, *(f"damaged, not used: {reason}" for _, reason in damaged)]
    known = _described(chosen, content)
    elsewhere: list[str] = []
    if device is None:
        device, elsewhere = _device_of(config, record)
        notices += elsewhere
    model = build_model(config.model, known["input_shape"], known["output_size"], pretrained=False)
    try:
        model.load_state_dict(content.model)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{chosen} does not fit model={config.model.name}: {reason}") from error
    # After the model was built: a damaged output_size would make a list of any length.
    known["classes"] = known["task"].class_names(known["classes"], known["output_size"])
    model = model.to(device)
    model.eval()
    readout = _readout(config, known, content, chosen).on(device)
    return Trained(
        directory=directory,
        record=record,
        config=config,
        checkpoint=chosen,
        content=content,
        model=model,
        device=device,
        readout=readout,
        notices=(*_unfinished(directory, record, content.step, mirrored=is_url(run)), *notices),
        same_environment=not elsewhere and record.get("engine") != "fused",
        **known,
    )


def _no_checkpoint(directory: Path, record: Mapping[str, Any]) -> CheckpointError:
    if is_training(directory):
        return CheckpointError(
            f"{directory} has no checkpoint yet: the run is still being trained",
            "wait until the first one is saved",
        )
    how, reason = "was stopped", ""
    if record.get("status") == "failed":
        how, reason = "failed", f" ({record['reason']})" if record.get("reason") else ""
    return CheckpointError(
        f"{directory} has no checkpoint: the run {how} before the first one was saved{reason}",
        "train it again; trainctl resume also needs a checkpoint",
    )


def _unfinished(directory: Path, record: Mapping[str, Any], step: int, *, mirrored: bool) -> list[str]:
    """A notice about a run that is not done."""
    status, reason = record.get("status"), record.get("reason")
    if status == "done":
        return []
    if status == "failed":
        how = f"failed{f' ({reason})' if reason else ''}"
    elif status == "running" and mirrored:
        how = "had not ended when it was copied there"
    elif status == "running" and is_training(directory):
        how = "is still being trained"
    else:
        how = f"was {'killed' if status == 'running' else status} before its end"
    return [f"the run {how}: this is its step {step}"]


def _device_of(config: Config, record: Mapping[str, Any]) -> tuple[torch.device, list[str]]:
    """The run's device, and notices where the environment changes the last digits."""
    notices = []
    try:
        device = runtime.choose_device(config.device)
    except ConfigError as error:
        device = torch.device("cpu")
        notices.append(f"{error}: using the CPU")
    then = record.get("environment") or {}
    threads = then.get("threads")
    if device.type == "cpu" and threads:
        torch.set_num_threads(threads)
    differing = [
        f"{key} {then[key]} → {now}"
        for key, now in (("torch", torch.__version__), ("device", str(device)))
        if key in then and str(then[key]).partition(" ")[0] != now
    ]
    if differing:
        notices.append(f"the environment has changed: {', '.join(differing)}; the last digits may differ")
    return device, notices


def _described(chosen: Path, content: CheckpointData) -> dict[str, Any]:
    """A checkpoint's description of its data. Raises CheckpointError where it is damaged."""
    try:
        data = content.state["data"]
        shape, size, names = data["input_shape"], data["output_size"], data["classes"]
        counts, raw, reading = data.get("class_counts"), data.get("raw"), data.get("reading") or {}
        fine = {
            "task": data["task"] in TASKS.names(),
            "input_shape": _shape(shape),
            "output_size": type(size) is int and size > 0,
            "classes": isinstance(names, list) and all(isinstance(name, str) for name in names),
            "class_counts": counts is None or _class_counts(counts, size),
            "raw": raw is None or (_shape(raw["shape"]) and _dtypes(raw["dtype"])),
            "reading": isinstance(reading, dict),
        }
        if not all(fine.values()):
            raise TypeError(next(key for key in fine if not fine[key]))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{chosen}: the description of its data is damaged: {error}") from error
    return {
        "task": task_named(data["task"]),
        "input_shape": made_shape(shape),
        "output_size": size,
        "classes": tuple(names),
        "class_counts": None if counts is None else torch.tensor(counts),
        "raw": raw,
        "reading": reading,
    }


def _class_counts(value: Any, size: int) -> bool:
    """Whether these are numbers of samples, one a class; or two, with and without it."""
    rows = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    return len(rows) <= 2 and all(_counts(row, 0) and len(row) == size for row in rows)


def _readout(config: Config, known: Mapping[str, Any], content: CheckpointData, chosen: Path) -> Readout:
    """How outputs are read. Raises CheckpointError where the description of it is damaged."""
    if not known["task"].reads_out:
        return Readout()
    criterion = construct(config.loss, class_counts=known["class_counts"], task=known["task"].name)
    try:
        scale = content.state["data"].get("target_scale")
        readout = Readout.made(output_of(known["task"], criterion), scale)
        if not readout.fits(known["output_size"]):
            raise ValueError(f"a scale of other targets than its {known['output_size']}")
    except ValueError as error:
        raise CheckpointError(f"{chosen} holds {error}") from error
    return readout


def _counts(values: Any, least: int = 1) -> bool:
    return isinstance(values, Sequence) and all(type(each) is int and each >= least for each in values)


def _shape(value: Any) -> bool:
    """Whether it is the shape of a sample, or those of its inputs by name."""
    return bool(value) and all(map(_counts, value.values())) if isinstance(value, dict) else _counts(value)


def _dtypes(value: Any) -> bool:
    return all(each in _DTYPES for each in (value.values() if isinstance(value, dict) else [value]))
