"""Between the user's unit and the loss's: targets are scaled for training, outputs are read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError

Numbers = float | Sequence[float]

SCALED = "value"
"""The ``output`` of a loss that takes targets in any unit, so that they can be scaled."""
_LINKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "log": torch.exp,
    "logit": torch.sigmoid,
    "sign": lambda outputs: torch.tanh(outputs / 2),
}
_NOT_COMPARABLE = ("score", "labels")
_FLOAT32_DIGITS = 9
# Above this, float32 cannot hold mean and deviations side by side to five digits.
_FAR_FROM_ZERO = 100.0


def wide(device: torch.device) -> torch.dtype:
    """The type to sum in: float64, which only MPS lacks."""
    return torch.float32 if device.type == "mps" else torch.float64


class Readout(nn.Module):
    """From a model's outputs to values in the unit of the data, and from targets to those of the loss.

    Args:
        output: what an output is, as the loss declares it: ``value`` in any unit; ``log``, the logarithm of a
            target; ``logit`` of a target from 0 to 1; ``sign``, the logit of a target that is 1 or -1;
            ``score`` or ``labels``, nothing that compares with a target; "" is as the targets are.
        mean, std: of the training targets, one number an output or one for all; the loss gets
            ``(target - mean) / std``. None: targets are as they are.
        note: how the targets are taken, for the header.

    Raises ConfigError for another ``output``.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, output: str = "", mean: Numbers | None = None, std: Numbers | None = None, note: str = ""
    ) -> None:
        super().__init__()
        if output not in ("", SCALED, *_LINKS, *_NOT_COMPARABLE):
            known = ", ".join([SCALED, *_LINKS, *_NOT_COMPARABLE])
            raise ConfigError(f"the loss declares output={output!r}, which is unknown", f"one of: {known}")
        self.output, self.note = output, note
        for name, numbers in (("mean", mean), ("std", std)):
            tensor = None if numbers is None else torch.tensor(numbers, dtype=torch.float64)
            self.register_buffer(name, tensor, persistent=False)

    @property
    def is_comparable(self) -> bool:
        """Whether outputs can be compared with targets, so that metrics mean something."""
        return self.output not in _NOT_COMPARABLE

    def on(self, device: torch.device) -> Readout:
        """A copy on ``device``, in its widest type."""
        return self._copy().to(device=device, dtype=wide(device))

    def for_programs(self) -> Readout:
        """A copy on the CPU that computes in float32, where that has digits enough."""
        return self._copy().to(torch.float64 if self._is_far_from_zero() else torch.float32)

    def _copy(self) -> Readout:
        return Readout.made(self.output, self.described(), self.note)

    def _is_far_from_zero(self) -> bool:
        if self.mean is None or self.std is None:
            return False
        return bool((self.mean.abs() > _FAR_FROM_ZERO * self.std).any())

    def forward(self, outputs: Tensor) -> Tensor:
        """Outputs (N, …) as values in the unit of the data; scaled ones in float64."""
        if self.output in _LINKS:
            return _LINKS[self.output](outputs)
        return self.unscaled(outputs)

    def unscaled(self, values: Tensor) -> Tensor:
        """Values in the unit of the loss, in that of the data."""
        if self.mean is None or self.std is None:
            return values
        return values.to(self.mean.dtype) * self.std + self.mean

    def scaled(self, values: Tensor) -> Tensor:
        """Values in the unit of the data, in that of the loss, in float64."""
        if self.mean is None or self.std is None:
            return values
        return (values.to(self.mean.dtype) - self.mean) / self.std

    def compared(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and the loss's targets, both in the unit of the data."""
        return self(outputs), self.unscaled(targets)

    def prepared(self, targets: Tensor) -> Tensor:
        """Targets of a dataset as the loss gets them: scaled in float64, then in float32; numbers of classes
        stay whole."""
        if self.output == "labels":
            whole = targets.to(torch.int64)
            return whole if bool((whole == targets).all()) else targets.to(torch.float32)
        return self.scaled(targets).to(torch.float32) if targets.is_floating_point() else targets

    @property
    def digits(self) -> int:
        """Significant digits that tell two float32 outputs apart, when they are read out."""
        if self.mean is None or self.std is None:
            return _FLOAT32_DIGITS
        far = float((self.mean.abs() / self.std).max())
        return min(17, _FLOAT32_DIGITS + math.ceil(math.log10(max(1.0, far))))

    def described(self) -> dict[str, Any] | None:
        """The scale of the targets as plain JSON values, no number rounded; None without one."""
        if self.mean is None or self.std is None:
            return None
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def made(cls, output: str, described: Any, note: str = "") -> Readout:
        """The inverse of :meth:`described`. Raises ValueError for any other input."""
        if described is None:
            return cls(output, note=note)
        try:
            mean, std = described["mean"], described["std"]
            each = [[value] if isinstance(value, float) else list(value) for value in (mean, std)]
            numbers = [value for values in each for value in values]
            if not all(isinstance(value, float) and math.isfinite(value) for value in numbers):
                raise ValueError("it has values that are not finite numbers")
            if len(each[0]) != len(each[1]) or isinstance(mean, float) != isinstance(std, float):
                raise ValueError("mean and std differ in length")
            if not all(value > 0 for value in each[1]):
                raise ValueError("a deviation is not above 0")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no usable scale of the targets: {error}") from error
        return cls(output, mean, std, note)

    def fits(self, outputs: int) -> bool:
        """Whether the scale is one for ``outputs`` outputs."""
        return self.mean is None or self.mean.dim() == 0 or len(self.mean) == outputs


RAW = Readout()
"""Outputs and targets as they are."""
