"""What an epoch draws, what is mixed in its batches, and what validates, as the ``dataset`` settings ask."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainctl.components.tasks._base import task_of
from trainctl.config.settings import Config
from trainctl.data.mixing import Mix
from trainctl.data.sampler import Sampling
from trainctl.data.types import Data, StreamSplit, hold_out, hold_out_fold, is_sampled
from trainctl.errors import ConfigError
from trainctl.registry import LOADERS
from trainctl.registry.constraints import show


def with_validation(data: Data, common: Any) -> Data:
    """``data`` with validation samples: its own, a fold, or a part of the training samples.

    Raises ConfigError for a fold of data that has validation samples of its own.
    """
    folds, seed = common.get("folds"), common["split_seed"]
    if folds is None:
        return data if data.val is not None else hold_out(data, common["val"], seed)
    if data.val is not None:
        raise ConfigError(
            f"dataset.folds={folds}: dataset {data.name} has validation samples of its own",
            "leave dataset.folds and dataset.fold out, or the dataset's own",
        )
    if is_sampled(data.train):
        raise ConfigError(
            f"dataset.folds={folds}: dataset {data.name} gives targets with its samples only",
            "leave dataset.folds out",
        )
    groups = data.train.targets if task_of(data).class_numbers else None
    return hold_out_fold(data, folds, common["fold"], seed, groups)


def choose_sampling(config: Config, data: Data) -> Sampling | None:
    """The draws of an epoch; None where it has each sample once.

    Raises ConfigError where the data has no classes, or no weights, to draw by.
    """
    asked = config.dataset.common.get("sampling", "uniform")
    if asked == "uniform":
        return None
    key = f"dataset.sampling={show(asked)}"
    _refuse_loader(config, "sampling", key)
    train, task = data.train, task_of(data)
    if is_sampled(train) and (asked != "weighted" or isinstance(train, StreamSplit)):
        raise ConfigError(
            f"{key}: draws by targets, which dataset {data.name} gives with its samples only",
            "use dataset.sampling=uniform",
        )
    classes = train.targets if task.class_numbers and not is_sampled(train) else None
    if asked == "weighted":
        if train.weights is None:
            raise ConfigError(
                f"{key}: dataset {data.name} has no weights",
                "balanced, or a weight a class ([1,5]); a dataset of one's own gives weights with its split",
            )
        weights = torch.as_tensor(train.weights)
        if weights.shape != (len(train),):
            raise ConfigError(f"{key}: {tuple(weights.shape)} weights for {len(train)} training samples")
    elif classes is None:
        raise ConfigError(f"{key}: needs classes, the targets are {task.targets}", "use uniform, or weighted")
    else:
        counts = torch.bincount(classes, minlength=data.output_size)
        each = 1.0 / counts.clamp(min=1) if asked == "balanced" else torch.tensor(asked, dtype=torch.float64)
        if len(each) != data.output_size:
            raise ConfigError(f"{key}: {len(each)} weights for {data.output_size} classes", "one a class")
        weights = each.to(torch.float64)[classes]
    usable = weights.to(torch.float64)
    if not bool((usable >= 0).all() and usable.isfinite().all() and usable.sum() > 0):
        raise ConfigError(f"{key}: weights of samples must be finite, not negative, and not all 0")
    return Sampling(weights, classes)


def choose_mix(config: Config, data: Data, criterion: Any) -> Mix | None:
    """What mixes the samples of a batch; None where nothing does.

    Raises ConfigError where targets cannot be mixed.
    """
    mixup, cutmix = (config.dataset.common.get(key) for key in ("mixup", "cutmix"))
    if mixup is None and cutmix is None:
        return None
    key = "dataset.mixup" if cutmix is None else "dataset.cutmix"
    _refuse_loader(config, "mix", key)
    classes = data.output_size if task_of(data).class_numbers else None
    if cutmix is not None and (isinstance(data.input_shape, dict) or len(data.input_shape) != 3):
        raise ConfigError(
            f"{key}: needs images, (channels, height, width); samples have shape {data.input_shape}",
            "dataset.mixup takes any samples",
        )
    remedy = f"use loss=cross_entropy, or leave {key} out"
    if classes is not None:
        if not getattr(criterion, "soft_targets", isinstance(criterion, nn.CrossEntropyLoss)):
            raise ConfigError(f"{key}: loss={config.loss.name} takes no shares of several classes", remedy)
    elif not data.train.targets.is_floating_point():
        raise ConfigError(f"{key}: targets of {data.train.targets.dtype} cannot be mixed")
    elif getattr(criterion, "target", None) in ("sign", "labels") or getattr(criterion, "log_target", False):
        raise ConfigError(f"{key}: loss={config.loss.name} takes no means of targets", f"leave {key} out")
    return Mix(mixup, cutmix, classes, config.seed)


def _refuse_loader(config: Config, argument: str, key: str) -> None:
    if argument not in LOADERS.takes(config.loader.name):
        raise ConfigError(
            f"{key}: loader={config.loader.name} cannot do that, its constructor takes no {argument}",
            "use loader=auto",
        )
