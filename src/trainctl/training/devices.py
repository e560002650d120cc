"""One run in several processes: what differs from a run in one.

Every process builds the same run from the same config. Each takes a slice of every batch; the loss and the
gradients are those of the whole batch, so all of them take the same step, reach the same decisions and hold
the same weights. Rank 0 alone logs, saves and shows.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.checkpoint.format import CheckpointData, read_checkpoint
from trainctl.checkpoint.shards import is_sharded, optimizer_takes_whole_tensors
from trainctl.checkpoint.snapshot import RandomStates
from trainctl.config.settings import Config, Ddp, Fsdp
from trainctl.data.sampler import derived_seed
from trainctl.distributed.group import Group
from trainctl.errors import ConfigError, Problem
from trainctl.registry import LOADERS, LOOPS
from trainctl.registry.protocols import Batch, Criterion, Loader, named_modules
from trainctl.training import runtime
from trainctl.training.agreed_control import AgreedControl
from trainctl.training.hooks.checkpointer import Checkpointer
from trainctl.training.prepare_data import Loaders
from trainctl.training.run import Hook, Run
from trainctl.training.steps.whole_batch import WholeBatch


def check_devices(config: Config, group: Group) -> None:
    """Raise ConfigError for what trains on one device only."""
    size, train = group.size, config.train
    refused = {
        f"loop={config.loop.name}": (
            config.loop.name != "optimizer" and not _averages_itself(config),
            "use loop=optimizer",
        ),
        f"loop={config.loop.name} strategy=fsdp": (
            isinstance(config.strategy, Fsdp) and _averages_itself(config),
            "use loop=optimizer",
        ),
        f"compile={config.compile}": (config.compile is not False, "use compile=false"),
        "profile=true": (config.profile, "profile one device: devices=1"),
        f"train.batch_size={train.batch_size}": (
            train.batch_size < size,
            f"each device needs a sample of each batch: use batch_size={size} or more",
        ),
        f"train.micro_batch={train.micro_batch}": (
            train.micro_batch is not None,
            "use a smaller batch_size: with train.accumulate=2 half of it takes the same steps",
        ),
        f"loader={config.loader.name}": (
            "share" not in LOADERS.takes(config.loader.name),
            "its constructor takes no share of the data; use loader=auto",
        ),
    }
    found = [
        Problem(f"{what}: not on several devices (devices={size})", remedy)
        for what, (is_refused, remedy) in refused.items()
        if is_refused
    ]
    if found:
        raise ConfigError(found)


def check_model(config: Config, model: Any, group: Group) -> None:
    """Raise ConfigError for a model that says it needs whole batches, or whose gradients are not torch's."""
    where = f"model={config.model.name}: not on several devices (devices={group.size})"
    if not getattr(model, "several_devices", True):
        raise ConfigError(f"{where}, as it says itself: several_devices = False", "use devices=1")
    if not isinstance(model, nn.Module) and not _averages_itself(config):
        raise ConfigError(
            f"{where}, because it is no torch.nn.Module",
            "use model=mlp, or loop=data_parallel, which averages gradients by hand",
        )


def _averages_itself(config: Config) -> bool:
    """Whether the loop's step averages the gradients of all processes."""
    return getattr(LOOPS.load(config.loop.name), "several_devices", False)


def check_same_data(group: Group, fingerprint: Mapping[str, Any]) -> None:
    """Raise ConfigError where a process has read other data than rank 0."""
    found = group.gather((platform.node(), dict(fingerprint)))
    for rank, (host, other) in enumerate(found):
        if other != found[0][1]:
            raise ConfigError(
                f"rank {rank} on {host} has other data than rank 0 on {found[0][0]}",
                "give every machine the same files",
            )


def choose_device(config: Config, group: Group) -> torch.device:
    """This process's device: a GPU each where there are any, else the CPU. The group's tensors go there."""
    name, local = config.device, group.world.local_rank
    if name == "auto":
        name = "cuda" if runtime.choose_device("auto").type == "cuda" else "cpu"
    if name not in ("cuda", "cpu"):
        raise ConfigError(f"device={name}: not on several devices", "use device=cuda, cpu or auto")
    group.device = runtime.choose_device(f"cuda:{local}" if name == "cuda" else "cpu")
    return group.device


def choose_threads(config: Config, group: Group) -> runtime.Threads:
    """CPU threads of a process: as asked, else its part of the cores."""
    if isinstance(config.threads, int):
        number, note = config.threads, "as asked, in each process"
    else:
        number = max(1, torch.get_num_threads() // group.world.local_size)
        note = f"in each of {group.world.local_size} processes"
    torch.set_num_threads(number)
    return runtime.Threads(number, note)


def lay_out(
    config: Config, group: Group, model: Any, averaged: Any, loaders: Loaders, batch: Batch
) -> Loaders:
    """Cut ``model``, and the average of its weights if there is one, among the processes, where the strategy
    says so; returns loaders for them. Raises ConfigError for a model that cannot be cut."""
    if isinstance(config.strategy, Fsdp):
        from trainctl.training.sharded import shard

        shard(config, config.strategy, group, model, averaged)
    result, spare = model if averaged is None else averaged, batch.inputs
    others = (
        None if loader is None else Evaluated(loader, group, result, spare)
        for loader in (loaders.val, loaders.test)
    )
    return replace(loaders, val=next(others), test=next(others))


def attach(run: Run, config: Config, whole_batch: WholeBatch) -> None:
    """Have ``run`` agree, evaluate and save with the other processes.

    From here on draws such as dropout masks come from the seed and the rank; rank 0's are one device's.
    """
    group = whole_batch.group
    whole_batch.control.run = run
    run.control, run.gather = whole_batch.control, group.gather
    if isinstance(config.strategy, Fsdp):
        if not isinstance(run.optimizer, torch.optim.Optimizer):
            raise ConfigError(
                f"strategy=fsdp needs an optimizer of torch, not optim={config.optim.name}",
                "use strategy=ddp, or optim=sgd, adam …",
            )
        if getattr(run.optimizer, "whole_matrices", False):
            raise ConfigError(
                f"optim={config.optim.name} works on whole matrices, which strategy=fsdp cuts",
                "use strategy=ddp",
            )
        optimizer_takes_whole_tensors(run.optimizer)
    run.attach([RanksRandomStates(group, group.device)])
    if group.rank > 0:
        runtime.seed_everything(derived_seed("rank", config.seed, group.rank))


def synchronised(model: Any, device: torch.device) -> Any:
    """``model`` with batch statistics over all devices, where torch has that: on CUDA."""
    if device.type == "cuda" and isinstance(model, nn.Module):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return model


def unequal(model: Any, device: torch.device) -> list[str]:
    """Notices on what cannot be equal to a run on one device."""
    kinds = [module for _, module in named_modules(model)]
    said = []
    if any(isinstance(each, nn.modules.dropout._DropoutNd) and each.p > 0 for each in kinds):
        said.append("dropout: each device draws masks of its own, so losses differ from one device's")
    if device.type != "cuda" and any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in kinds):
        said.append(
            "batch norm: each device normalizes its own slice, so losses differ from one device's"
            " (torch synchronises it on CUDA only)"
        )
    return said


def whole_batch(config: Config, model: Any, criterion: Criterion, loader: Any, group: Group) -> WholeBatch:
    """What ``config.strategy`` makes of model and criterion."""
    settings = config.strategy
    if isinstance(settings, Ddp) and not _averages_itself(config):
        model = group.replicated(model, bucket_mb=settings.bucket_mb, find_unused=settings.find_unused)
    return WholeBatch(
        model, criterion, loader.share, AgreedControl(group, config.checkpoint.every_steps), config
    )


class Evaluated:
    """A loader of an evaluation, each of whose batches one of the processes takes.

    All of them evaluate rank 0's buffers, and call a sharded model equally often, since each call gathers
    parameters from all.

    Args:
        model: that is evaluated.
        spare: inputs for a process that has a batch less than others.
    """

    def __init__(self, loader: Loader, group: Group, model: Any, spare: Tensor) -> None:
        self.loader, self.group, self.model, self.spare = loader, group, model, spare

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def batches(self, *cursor: Any) -> Iterator[Batch]:
        model, calls = self.model, 0
        if isinstance(model, nn.Module):
            self.group.share_state(dict(model.named_buffers()))
        for batch in self.loader.batches(*cursor):
            calls += 1
            yield batch
        # Parts that are whole already, as those of an FSDP root, are gathered no more.
        if any(map(is_sharded, model.parameters())):
            for _ in range(calls, -(-len(self.loader) // self.group.size)):
                model(self.spare)


class RanksRandomStates(Hook):
    """The random states of all processes, gathered before each checkpoint.

    Rank 0's are stored as those of a run on one device, the others beside them: a run goes on exactly on as
    many devices; on more, or fewer, a process without a state of its own draws anew.
    """

    name = "random"

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group, self.own = group, RandomStates(device)
        self._all: list[Mapping[str, Any]] = []

    def settle(self, run: Run) -> None:
        self._all = self.group.gather(self.own.state_dict(), torch.device("cpu"))

    def state_dict(self) -> dict[str, Any]:
        first, *others = self._all or [self.own.state_dict()]
        return {**first, "ranks": others}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = [state_dict, *state_dict.get("ranks", [])]
        if self.group.rank == 0 or len(states) == self.group.size:
            self.own.load_state_dict(states[self.group.rank])


def checkpointer(config: Config, group: Group | None) -> Callable[..., Checkpointer]:
    """The class of rank 0's checkpointer."""
    if group is None or isinstance(config.strategy, Ddp):
        return Checkpointer
    from trainctl.training.sharded import ShardedCheckpointer

    return partial(ShardedCheckpointer, group)


def following(config: Config, group: Group, folder: Path, take: Callable[[], CheckpointData]) -> Hook:
    """What another process has in the place of the checkpointer, which writes into ``folder``."""
    if isinstance(config.strategy, Ddp):
        return FollowingCheckpointer()
    from trainctl.training.sharded import FollowingShards

    return FollowingShards(group, folder, take)


class FollowingCheckpointer(Hook):
    """In the place of rank 0's checkpointer: takes part in what comes before a checkpoint."""

    name = "checkpoints"

    def end(self, run: Run) -> None:
        run.save()


def take_best(run: Run, group: Group, checkpoint: Path | None) -> None:
    """Give the model that is tested the values in ``checkpoint``, of which rank 0 tells; None leaves them.

    Rank 0 reads them for all, except where each process has a part of the model.
    """
    model: Any = run.result
    # Not its parameters: those of an FSDP root stay whole from an evaluation to the next backward pass.
    sharded = any(map(is_sharded, model.state_dict().values()))
    if checkpoint is not None and (sharded or group.rank == 0):
        model.load_state_dict(read_checkpoint(checkpoint, training=False).model)
    if not sharded:
        group.share_state(model.state_dict())


def keeper(config: Config, group: Group, keep: Any) -> Any:
    """A guard's ``keep`` that stores the slices of all processes together; None where others store."""
    if isinstance(config.strategy, Fsdp):
        from trainctl.training.sharded import keep_no_capsule

        return keep_no_capsule

    def kept(run: Run, inputs: Tensor, targets: Tensor, random_state: Tensor, why: str) -> str:
        idle = bool(run.train_loader.share.idle)  # type: ignore[attr-defined]
        slices = [each for each in group.gather((inputs, targets, idle)) if not each[2]]
        if keep is None:
            return "of rank 0"
        whole = (torch.cat([each[part] for each in slices]) for part in (0, 1))
        return str(keep(run, *whole, random_state, why))

    return kept
