"""``strategy=fsdp``: each of several processes holds a part of the parameters."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainctl.checkpoint.format import CheckpointData
from trainctl.checkpoint.shards import save_together, takes_whole_tensors
from trainctl.config.settings import Config, Fsdp
from trainctl.distributed.group import Group
from trainctl.errors import CheckpointError, ConfigError
from trainctl.training.hooks.checkpointer import Checkpointer
from trainctl.training.run import Hook, Run


def shard(config: Config, settings: Fsdp, group: Group, model: Any, averaged: Any) -> None:
    """Cut ``model``, and the average of its weights if there is one, among the processes, in place.

    Raises ConfigError for a pattern that matches no layer, and for a model that cannot be cut.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model={config.model.name} is no torch module", "use strategy=ddp")
    if scalar := next((name for name, item in model.named_parameters() if item.dim() == 0), None):
        raise ConfigError(
            f"model={config.model.name}: the parameter {scalar} is one number, which cannot be cut",
            "give it the shape (1,), or use strategy=ddp",
        )
    for each in (model, averaged):
        if each is not None:
            bf16, inner = settings.precision == "bf16", units(each, settings)
            group.sharded(each, inner, bf16=bf16, offload=settings.offload)
            takes_whole_tensors(each)


def units(model: nn.Module, settings: Fsdp) -> list[nn.Module]:
    """The layers that are gathered on their own, inner ones first.

    ``wrap=auto`` takes each layer with parameters of its own, what it contains included, that has at least
    ``min_parameters``. Layers that share a parameter are gathered together, with the rest of the model.

    Raises ConfigError for a pattern that matches no layer.
    """
    named = {name: module for name, module in model.named_modules() if name}
    if settings.wrap == "auto":
        found: dict[str, nn.Module] = {}
        for name, module in named.items():
            inside = any(name.startswith(f"{outer}.") for outer in found)
            if not inside and next(module.parameters(recurse=False), None) is not None:
                found[name] = module
        found = {
            name: module
            for name, module in found.items()
            if sum(item.numel() for item in module.parameters()) >= settings.min_parameters
        }
    else:
        found = {}
        for pattern in settings.wrap:
            matching = [name for name in named if fnmatchcase(name, pattern)]
            if not matching:
                raise ConfigError(
                    f"strategy.wrap={pattern}: matches no layer", f"there are: {', '.join(list(named)[:12])}"
                )
            found |= {name: named[name] for name in matching}
    inner_first = sorted(found, key=lambda name: -name.count("."))
    counts: dict[int, int] = {}
    for _, item in model.named_parameters(remove_duplicate=False):
        counts[id(item)] = counts.get(id(item), 0) + 1
    alone = [found[name] for name in inner_first]
    return [module for module in alone if all(counts[id(item)] == 1 for item in module.parameters())]


def keep_no_capsule(run: Run, inputs: Tensor, targets: Tensor, random_state: Tensor, why: str) -> str:
    """A guard's ``keep``: raises CheckpointError."""
    raise CheckpointError("with strategy=fsdp no process has the whole model")


class ShardedCheckpointer(Checkpointer):
    """Saves with the other processes, each its own parts, between two steps: training waits."""

    name = Checkpointer.name

    def __init__(self, group: Group, *arguments: Any, **settings: Any) -> None:
        # None is kept back: the others, which follow, would have to be told when it is written.
        every_epochs = 1 if settings["every_epochs"] == "auto" else settings["every_epochs"]
        super().__init__(*arguments, **{**settings, "every_epochs": every_epochs, "writer": None})
        self.group = group

    def save(self, run: Run) -> None:
        if self.group.first(self.saved_step != run.state.step):
            super().save(run)

    def put(self, content: CheckpointData) -> Path:
        return save_together(self.folder, content, 0, self.group.gather)


class FollowingShards(Hook):
    """In the place of rank 0's :class:`ShardedCheckpointer`: saves this process's parts.

    Args:
        take: gives what is to be saved.
    """

    name = "checkpoints"

    def __init__(self, group: Group, folder: Path, take: Any) -> None:
        self.group, self.folder, self.take = group, folder, take

    def save(self, run: Run) -> None:
        if self.group.first(None):
            save_together(self.folder, self.take(), self.group.rank, self.group.gather)

    def end(self, run: Run) -> None:
        run.save()
