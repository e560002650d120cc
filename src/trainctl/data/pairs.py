"""Samples of torch's datasets as pairs of input and target, all of one shape and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainctl.data.inputs import parts_of
from trainctl.data.preprocessing import describe_samples
from trainctl.data.sample_values import as_inputs, as_tensor, described, form, same, shown_pair
from trainctl.errors import ConfigError

_TARGETS = ("target", "targets", "y", "label", "labels")
_FORM = "return (input, target), or a dictionary with an input and a target"


@dataclass
class Pairs:
    """A dataset of torch, whose samples are taken apart and compared with the first one of ``train``.

    Attributes:
        where: begins messages.
        inputs, target: names of a sample's entries, see :class:`trainctl.data.types.Datasets`.
        like: input and target of the first sample of ``train``; None before it was looked at.
        targets: that are known before training, as the dataset has them.
        repeats: whether a sample is the same each time it is loaded with the same random numbers.
    """

    where: str
    source: Any
    inputs: Sequence[str]
    target: str
    like: tuple[Any, Tensor] | None = None
    targets: Tensor = field(default_factory=lambda: torch.empty(0))
    repeats: bool = True

    @property
    def raw(self) -> dict[str, Any] | None:
        """Shape and type of a raw sample."""
        return None if self.like is None else describe_samples(self.like[0][None])

    def taken(self, where: str, sample: Any) -> tuple[Any, Tensor]:
        """Input and target of ``sample``. Raises ConfigError that names it where it cannot be used."""
        given, answer = self._parts(where, sample)
        inputs = as_inputs(f"{where}: its input", given)
        target = as_tensor(f"{where}: its target", answer)
        if self.like is not None and form(inputs, target) != form(*self.like):
            raise ConfigError(
                f"{where} is {shown_pair(inputs, target)}, others are {shown_pair(*self.like)}",
                "all samples of a dataset must have the same shape and type",
            )
        return inputs, target

    def _parts(self, where: str, sample: Any) -> tuple[Any, Any]:
        """The input, or several, and the target of a sample. Raises ConfigError for any other form."""
        if isinstance(sample, Mapping):
            return self._entries(where, sample)
        if isinstance(sample, tuple | list) and len(sample) == 2:
            return sample[0], sample[1]
        raise ConfigError(f"{where} is {described(sample)}, not an input and its target", _FORM)

    def _entries(self, where: str, sample: Mapping[Any, Any]) -> tuple[Any, Any]:
        names = [self.target] if self.target else [name for name in _TARGETS if name in sample]
        inputs = list(self.inputs) or [name for name in sample if name not in names]
        absent = [name for name in (*names, *inputs) if name not in sample]
        if len(names) == 1 and inputs and not absent:
            taken = {name: sample[name] for name in inputs}
            return taken if len(taken) > 1 else taken[inputs[0]], sample[names[0]]
        wrong = f"{', '.join(absent)} is not there" if absent else "one must be the target, the others inputs"
        raise ConfigError(
            f"{where} is a dictionary of {', '.join(map(str, sample))}: {wrong}",
            "call the target target, y or label; or name them: Datasets(inputs=['NAME'], target='NAME')",
        )


def same_pairs(one: Sequence[tuple[Any, Tensor]], other: Sequence[tuple[Any, Tensor]]) -> bool:
    """Whether all inputs and targets are the same."""
    return len(one) == len(other) and all(map(same, _tensors(one), _tensors(other)))


def _tensors(pairs: Sequence[tuple[Any, Tensor]]) -> list[Tensor]:
    return [tensor for inputs, target in pairs for tensor in (*parts_of(inputs), target)]
