"""The data of a run: read, checked, validation held out, its loaders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from trainctl.checkpoint.format import CheckpointData
from trainctl.components.tasks._base import asked_task, task_of, with_targets
from trainctl.config.settings import Component, Config
from trainctl.data.augmentation import make_augment
from trainctl.data.fingerprint import described_data, fingerprint
from trainctl.data.preprocessing import make_transform
from trainctl.data.sample_values import described
from trainctl.data.types import AnySplit, Data, ItemSplit, Split, StreamSplit, is_sampled, limited
from trainctl.distributed.group import Group
from trainctl.errors import CheckpointError, ConfigError
from trainctl.registry.protocols import Loader
from trainctl.training.construct import construct
from trainctl.training.hooks.overfit import first_samples
from trainctl.training.label_noise import with_label_noise
from trainctl.training.sampling import choose_mix, choose_sampling, with_validation
from trainctl.training.targets import choose_readout, merged, prepare_targets, stored_readout


def build_data(
    dataset: Component, like: Mapping[str, Any] | None = None, trained: Mapping[str, Any] | None = None
) -> Data:
    """The dataset's splits, validation held out, targets checked but not yet prepared for a loss.

    ``like`` is the ``reading`` of a trained model's data: this one is read the same way. ``trained``
    describes the data of a run that goes on, whose means and deviations stay as they are.
    """
    data = construct(dataset, **({} if like is None else {"like": like}))
    if not isinstance(data, Data):
        # Only here: a run whose data is in memory does without the machinery of processes.
        from trainctl.data.map_style import from_datasets

        data = from_datasets(data, dataset.name)
    _refuse_datasets(data, dataset.name)
    if (task := asked_task(dataset.common)) is not None:
        data = task.adopted(data)
    data = with_targets(data)
    data = with_validation(data, dataset.common)
    data = limited(data, dataset.common.get("limit"))
    data = with_label_noise(data, dataset.common)
    data = replace(data, fingerprint=fingerprint(data))
    return data if data.fit is None else replace(data, transform=_fitted(data, trained))


def _refuse_datasets(data: Data, name: str) -> None:
    for label in ("train", "val", "test"):
        split = getattr(data, label)
        if not isinstance(split, Split | ItemSplit | StreamSplit) and (split is not None or label == "train"):
            raise ConfigError(
                f"dataset={name}: {label} of its Data is {described(split)}, not a Split or an ItemSplit",
                "return trainctl.data.Datasets(train=…) with datasets of torch: it finds the rest in samples",
            )


def _fitted(data: Data, trained: Mapping[str, Any] | None) -> nn.Module:
    """The transform with the statistics of the training split, or of the run that goes on.

    On the same data both are the same; a run whose data was changed with ``--allow-change`` keeps its own.
    """
    assert data.fit is not None
    fitted = data.fit(data.train)
    stored = (trained or {}).get("transform")
    if stored is None:
        return fitted
    try:
        made = make_transform(stored)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint holds {error}") from error
    shapes, wanted = ([(key, each.shape) for key, each in part.named_buffers()] for part in (made, fitted))
    # Of another shape, the model refuses the data.
    return made if shapes == wanted else fitted


def read_data(config: Config, stored: Any, begun: CheckpointData | None) -> Data:
    """The dataset's data; as that of the run that is resumed, or in the order of columns of the run whose
    weights this one starts from."""
    if stored is not None:
        return build_data(config.dataset, stored.get("reading"), stored)
    reading = {} if begun is None else described_data(begun.state).get("reading") or {}
    ordered = {**reading, "kind": "column order"} if reading.get("kind") == "table" else None
    return build_data(config.dataset, ordered)


def prepare(
    config: Config, data: Data, criterion: Any, loop: Any, stored: Any, start: Any
) -> tuple[Data, list[str]]:
    """``data`` with the targets that the loss gets, and notices.

    ``stored`` describes the data of the run that is resumed, ``start`` that of the run whose weights this one
    starts from: its outputs go on being in the same unit.
    """
    if data.readout is not None:
        return data, []
    if stored is not None:
        readout = stored_readout(config, data, criterion, stored)
    else:
        readout = choose_readout(config, data, criterion, loop)
        is_free = readout.mean is not None and config.dataset.common["scale_target"] == "auto"
        if is_free and start is not None and start.get("task") == data.task:
            readout = stored_readout(config, data, criterion, start)
    prepared = prepare_targets(data, readout)
    return prepared, merged(readout, data.train.targets, prepared.train.targets)


@dataclass(frozen=True)
class Loaders:
    """The batches of a run. ``train_split`` has the samples of ``train``: all, or a few to overfit."""

    train: Loader
    val: Loader | None
    test: Loader | None
    train_split: AnySplit


def build_loaders(
    config: Config, data: Data, device: torch.device, criterion: Any, group: Group | None = None
) -> Loaders:
    """The loaders that the config asks for, of this process's share where a ``group`` trains together.

    Raises ConfigError without training samples.
    """
    batch_size, accumulate = config.train.batch_size, config.train.accumulate
    window, overfit = batch_size * accumulate, config.train.overfit_batches
    if not len(data.train):
        raise ConfigError(f"dataset {data.name} has no training samples", "hold out fewer with dataset.val")
    masks = task_of(data).masks
    augment = make_augment(config.dataset.common["augment"], data.train, config.seed, masks=masks)
    load = partial(make_loader, config.loader, data, device=device)
    seed: int | None = config.seed
    train_split, val_split, test_split = data.train, data.val, data.test
    if overfit is not None:
        train_split = first_samples(train_split, overfit * window, config.seed)
        val_split = test_split = seed = None
    shares = {} if group is None else {"share": group.share()}
    turns = {} if group is None else {"share": group.share(by_turns=True)}
    chosen = {"sampling": choose_sampling(config, data), "mix": choose_mix(config, data, criterion)}
    if isinstance(train_split, StreamSplit) and train_split.length is None and config.train.max_steps is None:
        raise ConfigError(
            f"dataset {data.name}: train is an IterableDataset of unknown length, so the run needs an end",
            "train.max_steps=N; or dataset.limit=N, samples of an epoch; or give the dataset a __len__",
        )
    train = load(split=train_split, batch_size=window, seed=seed, augment=augment, **shares, **chosen)
    if isinstance(train_split, StreamSplit):
        train.steps = config.train.max_steps  # type: ignore[attr-defined]
    val, test = (
        load(split=split, batch_size=config.train.piece, seed=None, augment=None, **turns) if split else None
        for split in (val_split, test_split)
    )
    return Loaders(train, val, test, train_split)


def make_loader(loader: Component, data: Data, **arguments: Any) -> Loader:
    """The loader of a split of ``data``, whose batches are those of its task."""
    given = arguments["split"]
    fitting = ("auto",) if isinstance(given, StreamSplit) else ("auto", "workers")
    if is_sampled(given) and loader.name not in fitting:
        what = "is an IterableDataset" if isinstance(given, StreamSplit) else "has too many samples"
        raise ConfigError(f"loader={loader.name}: dataset {data.name} {what}", "use loader=auto")
    return task_of(data).loader(construct(loader, transform=data.transform, **arguments))


def class_counts(data: Data) -> torch.Tensor | None:
    """Training samples a class, as the task counts them; None for a task without classes, and where not all
    targets are known."""
    if is_sampled(data.train):
        return None
    return task_of(data).class_counts(data.train.targets, data.output_size)
