"""The header and the closing table of a run, and its entries in ``run.json``."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainctl.checkpoint.format import folder_name
from trainctl.components.losses.auto import loss_name
from trainctl.data import AnySplit
from trainctl.paths import short_path
from trainctl.registry.constraints import show
from trainctl.runs.record import RunRecord
from trainctl.training import artifacts
from trainctl.training.built import Built
from trainctl.training.display import Display, visible
from trainctl.training.request import Request
from trainctl.training.runtime import device_name

log = logging.getLogger("trainctl")
_SPLITS = ("train", "val", "test")


def header(request: Request, built: Built) -> tuple[str, list[tuple[str, str]]]:
    """The title and the rows of the header; the same goes to ``train.log``."""
    config, data, run = request.config, built.data, built.run
    frozen = built.parameters - built.trainable
    parameters = f"{built.parameters:,} parameters" + (f", {frozen:,} frozen" if frozen else "")
    named = data.splits
    splits = [f"{_size(named[name])} {name}" if named.get(name) else f"no {name}" for name in _SPLITS]
    each = "unknown" if len(data.train) == sys.maxsize else f"{len(run.train_loader):,}"
    steps = f"{run.total_steps:,} steps, {each} an epoch, batches of {config.train.batch_size}"
    if config.train.accumulate > 1:
        steps += f" × {config.train.accumulate}"
    if len(data.train) < config.train.batch_size * config.train.accumulate:
        steps += f": all {len(data.train):,} samples are one batch"
    overfit = config.train.overfit_batches is not None  # without scheduler and augmentation
    scheduler = "" if overfit or config.scheduler.name == "none" else f", {config.scheduler.name}"
    loss = loss_name(config.loss.name, data.task)
    if config.loss.name == "auto":
        loss += f" (loss=auto, for {data.task})"
    optimizer = f"{config.optim.name}{_learning_rate(run.optimizer)}"
    rows = [
        *([("name", config.name)] if config.name else []),
        ("model", f"{config.model.name}: {parameters}"),
        ("data", f"{data.name}: {', '.join(splits)}{f' ({data.note})' if data.note else ''}"),
        *([("labels", data.label_noise)] if data.label_noise else []),
        *([("targets", data.readout.note)] if data.readout and data.readout.note else []),
        ("training", f"{loss}, {optimizer}{scheduler}"),
        *([("groups", built.choices["groups"])] if "groups" in built.choices else []),
        ("steps", steps),
        ("step", run.step_name),
        *([("recomputed", built.choices["recomputed"])] if "recomputed" in built.choices else []),
        ("device", f"{device_name(built.device)}, threads {built.threads} ({built.threads_note})"),
    ]
    if config.train.precision != "fp32":
        rows.append(("precision", config.train.precision))
    if config.train.ema is not None:
        rows.append(("average", f"of the weights, decay {config.train.ema:g}: it is evaluated and saved"))
    for key in ("augment", "sampling", "mixup", "cutmix"):
        value = config.dataset.common.get(key)
        if value and value != "uniform" and not overfit:
            rows.append((key, show(value)))
    if built.loading != "resident":
        rows.append(("loader", built.loading))
    for label, text in [("run", str(request.directory)), *rows]:
        log.info("%s: %s", label, text)
    for line in data.report:
        log.info("data: %s", line)
    log.info("batches: %s", built.loading)
    log.info("attached: %s", ", ".join(hook.name for hook in run.hooks))
    return f"run {short_path(request.directory)}", rows


def _size(split: AnySplit) -> str:
    return "a stream of" if len(split) == sys.maxsize else f"{len(split):,}"


def _learning_rate(optimizer: Any) -> str:
    """The rate that was asked for; a scheduler may begin with another one."""
    asked = getattr(optimizer, "defaults", {})
    lr = asked.get("lr", optimizer.param_groups[0].get("lr"))
    return f" lr {lr:g}" if isinstance(lr, float | int) else ""


def closing(display: Display, record: RunRecord, directory: Path, best_step: int) -> None:
    """Show and log best, last and test, and the paths of the run."""
    values = record.values
    rows = {label: values[label] for label in ("best", "last", "test") if values[label]}
    places = [
        ("checkpoint", short_path(directory / "checkpoints" / folder_name(best_step))),
        ("metrics", short_path(directory / "metrics.jsonl")),
        *artifacts.places(directory, values),
        ("run", short_path(directory)),
    ]
    display.closing({label: visible(row) for label, row in rows.items()}, places)
    for label, row in rows.items():
        log.info("%s: %s", label, row)
    display.close()


def built_record(built: Built, plugins: list[dict[str, str]]) -> dict[str, Any]:
    """The values of ``run.json`` that are known once a run is built."""
    return {
        "environment": environment_of(built, plugins),
        "parameters": built.parameters,
        "monitor": {"name": built.monitor, "lower_is_better": built.lower_is_better},
        "target_scale": built.described["target_scale"],
    }


def environment_of(built: Built, plugins: list[dict[str, str]]) -> dict[str, Any]:
    """``environment`` of ``run.json``."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(built.device),
        "threads": built.threads,
        "matmul": torch.get_float32_matmul_precision(),
        "plugins": plugins,
        **built.choices,
    }


def step_record(built: Built) -> dict[str, Any]:
    """``step`` of ``run.json``: the training step and the hooks of the run."""
    return {"name": built.run.step_name, "attached": [hook.name for hook in built.run.hooks]}


def test_record(state: Any, test: Mapping[str, float]) -> dict[str, Any] | None:
    """``test`` of ``run.json``: the values, with step and epoch of the model that was tested."""
    if not test:
        return None
    where = {key: state.best[key] for key in ("step", "epoch")} if state.best else state.where
    return {**where, **test}
