"""From a run directory back to a model, and to the inputs it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.checkpoint import format as checkpoint
from trainctl.checkpoint.format import Content
from trainctl.config.settings import Config
from trainctl.config.stored import read_config
from trainctl.data import Data
from trainctl.data import preprocessing as preparing
from trainctl.errors import CheckpointError, ConfigError
from trainctl.registry import plugins
from trainctl.registry.protocols import Model
from trainctl.runs import directory as rundir
from trainctl.training import runtime
from trainctl.training.construct import build_model
from trainctl.training.prepare_data import build_data, data_fingerprint

_TASKS = ("classification", "regression")
_DTYPES = {str(each).removeprefix("torch.") for each in vars(torch).values() if isinstance(each, torch.dtype)}


@dataclass(frozen=True)
class Trained:
    """What was trained, and how its inputs are made.

    Attributes:
        directory, record, config: the run.
        checkpoint, content: the checkpoint and what stands in it.
        model: in evaluation mode, on ``device``.
        task, input_shape, output_size: what the model takes and gives.
        classes: one name a class; empty for regression.
        class_counts: training samples a class; None for regression.
        raw: shape and type of one raw sample, as :func:`trainctl.data.preprocessing.describe` says it.
        reading: how raw samples are read from files.
        notices: what people must be told of the run before its results.
    """

    directory: Path
    record: Mapping[str, Any]
    config: Config
    checkpoint: Path
    content: Content
    model: Model
    device: torch.device
    task: str
    input_shape: tuple[int, ...]
    output_size: int
    classes: tuple[str, ...]
    class_counts: Tensor | None
    raw: Mapping[str, Any] | None
    reading: Mapping[str, Any]
    notices: tuple[str, ...]

    @property
    def step(self) -> int:
        return self.content.step

    def raw_sample(self) -> Mapping[str, Any]:
        """Shape and type of one raw sample; where the run does not say, from one of the dataset's."""
        if self.raw is not None:
            return self.raw
        sample = preparing.first_samples(build_data(self.config.dataset, self.reading).train, 1)
        return {"shape": list(sample.shape[1:]), "dtype": str(sample.dtype).removeprefix("torch.")}

    def trained_on(self, data: Data) -> bool:
        """Whether the training targets, and their order, are those of the run."""
        state = self.content.state
        fingerprint = data_fingerprint(data, self.config.seed, int(state["epoch"]))
        return bool(state.get("data_fingerprint") == fingerprint)

    def transform(self) -> nn.Module:
        """What turns a raw batch into the model's input, as in training, on ``device``.

        A dataset's own that trainctl does not know is made by that dataset again, which takes its data.
        Raises CheckpointError where what is stored is no transform, ConfigError where that data is another.
        """
        described = self.content.state["data"].get("transform")
        if described is None:
            data = build_data(self.config.dataset, self.reading)
            if self.trained_on(data):
                return data.transform.to(self.device)
            raise ConfigError(
                f"dataset={self.config.dataset.name} makes its transform from its data, which has changed",
                "restore the data that the run was trained on",
            )
        try:
            return preparing.make_transform(described).to(self.device)
        except ValueError as error:
            raise CheckpointError(f"{self.checkpoint} holds {error}") from error


def load_model(run: str | Path, which: str = "best", *, trust_plugins: bool = False) -> nn.Module:
    """See :func:`trainctl.load`."""
    if which not in ("best", "last"):
        raise ConfigError(f"which={which}: must be best or last")
    trained = load_run(run, which, trust_plugins=trust_plugins, device=torch.device("cpu"))
    model: nn.Module = trained.model  # type: ignore[assignment]
    return model


def load_run(
    run: str | Path,
    which: str = "best",
    *,
    trust_plugins: bool = False,
    device: torch.device | None = None,
) -> Trained:
    """The ``best`` or ``last`` model of a run, and what is needed to use it.

    Without ``device`` it is the run's, with the run's number of threads, so that results are the same to the
    last digit; or the CPU where that device is not there.

    Raises ConfigError where there is no run, CheckpointError without a usable checkpoint, UnsafeInputError
    for changed plugins and for files that no run holds.
    """
    directory = rundir.find(run)
    record = rundir.read_record(directory)
    if not (directory / "config.yaml").is_file():
        raise _no_checkpoint(directory, record)
    stored = (record.get("environment") or {}).get("plugins") or []

    def trusted(named: list[str]) -> None:
        if not trust_plugins:
            plugins.refuse_changed(named, stored)

    config = read_config(directory / "config.yaml", trusted)
    chosen, content, notices = _choose(directory, record, which)
    known = _described(chosen, content)
    if device is None:
        device, said = _device_of(config, record)
        notices += said
    model = build_model(config.model, known["input_shape"], known["output_size"])
    try:
        model.load_state_dict(content.model)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{chosen} does not fit model={config.model.name}: {reason}") from error
    # Only now, when the model that was built says that there can be so many.
    if known["task"] == "regression":
        known["classes"] = ()
    elif len(set(known["classes"])) != known["output_size"]:
        known["classes"] = tuple(str(number) for number in range(known["output_size"]))
    model = model.to(device)
    model.eval()
    return Trained(
        directory=directory,
        record=record,
        config=config,
        checkpoint=chosen,
        content=content,
        model=model,
        device=device,
        notices=(*_state_of(directory, record, content), *notices),
        **known,
    )


# ------------------------------------------------------------------ which checkpoint


def _choose(directory: Path, record: Mapping[str, Any], which: str) -> tuple[Path, Content, list[str]]:
    """The checkpoint, its content, and what is to be said of others.

    The best one is never replaced by another; in the place of a damaged newest one the newest whole one is
    used, and both are named.
    """
    folder, best = directory / "checkpoints", record.get("best")
    if not best and not any(folder.glob("step-*")):
        raise _no_checkpoint(directory, record)
    if which == "best" and best:
        chosen = folder / checkpoint.folder_name(best["step"])
        try:
            return chosen, checkpoint.read(chosen), []
        except CheckpointError as error:
            remedy = "--checkpoint last takes the newest one (which='last' in Python)"
            raise CheckpointError(str(error), remedy) from error
    try:
        chosen, content, broken = checkpoint.newest_valid(folder)
    except CheckpointError:
        # A run that goes on replaces its checkpoints: what was listed may be gone when it is read.
        if not rundir.is_training(directory):
            raise
        chosen, content, broken = checkpoint.newest_valid(folder)
    notices = [f"damaged, not used: {reason}" for _, reason in broken]
    best = content.state.get("best")
    if which == "best" and isinstance(best, dict) and best.get("step") != content.step:
        # A run that has not ended has its best one in its checkpoints only.
        try:
            chosen = folder / checkpoint.folder_name(int(best["step"]))
            content = checkpoint.read(chosen)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{chosen} does not say which step was the best") from error
    return chosen, content, notices


def _no_checkpoint(directory: Path, record: Mapping[str, Any]) -> CheckpointError:
    if rundir.is_training(directory):
        return CheckpointError(
            f"{directory} has no checkpoint yet: the run is still being trained",
            "wait until the first one is saved",
        )
    how = "failed" if record.get("status") == "failed" else "was stopped"
    reason = f" ({record['reason']})" if how == "failed" and record.get("reason") else ""
    return CheckpointError(
        f"{directory} has no checkpoint: the run {how} before the first one was saved{reason}",
        "train it again; trainctl resume needs a checkpoint, too",
    )


def _state_of(directory: Path, record: Mapping[str, Any], content: Content) -> list[str]:
    """How the run ended, where it is not done."""
    status, reason = record.get("status"), record.get("reason")
    if status == "done":
        return []
    here = f"this is its step {content.step}"
    if status == "failed":
        return [f"the run failed{f' ({reason})' if reason else ''}: {here}"]
    if status != "running":
        return [f"the run was {status} and has not ended: {here}"]
    if rundir.is_training(directory):
        return [f"the run is still being trained: {here}"]
    return [f"the run was killed and has not ended: {here}"]


def _device_of(config: Config, record: Mapping[str, Any]) -> tuple[torch.device, list[str]]:
    """The run's device, and what differs from its environment where that moves the last digits."""
    notices = []
    try:
        device = runtime.choose_device(config.device)
    except ConfigError as error:
        device = torch.device("cpu")
        notices.append(f"{error}: the CPU is used")
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
        notices.append(f"not as it was trained: {', '.join(differing)}; the last digits may differ")
    return device, notices


# ------------------------------------------------------------------ what it says of itself


def _described(chosen: Path, content: Content) -> dict[str, Any]:
    """What a checkpoint says of its data. Raises CheckpointError for what cannot be."""
    try:
        data = content.state["data"]
        shape, size, names = data["input_shape"], data["output_size"], data["classes"]
        counts, raw, reading = data.get("class_counts"), data.get("raw"), data.get("reading") or {}
        _require(data["task"] in _TASKS, "task")
        _require(_counts(shape), "input_shape")
        _require(type(size) is int and size > 0, "output_size")
        _require(isinstance(names, list) and all(isinstance(name, str) for name in names), "classes")
        _require(counts is None or (_counts(counts, 0) and len(counts) == size), "class_counts")
        _require(raw is None or (_counts(raw["shape"]) and raw["dtype"] in _DTYPES), "raw")
        _require(isinstance(reading, dict), "reading")
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{chosen} says nothing usable of its data: {error}") from error
    return {
        "task": data["task"],
        "input_shape": tuple(shape),
        "output_size": size,
        "classes": tuple(names),
        "class_counts": None if counts is None else torch.tensor(counts),
        "raw": raw,
        "reading": reading,
    }


def _counts(values: Any, least: int = 1) -> bool:
    return isinstance(values, Sequence) and all(type(each) is int and each >= least for each in values)


def _require(fine: bool, what: str) -> None:
    if not fine:
        raise TypeError(f"{what} is damaged")
