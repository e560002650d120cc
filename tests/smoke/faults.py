"""Components with a fault each: a plugin that a user could have written."""

import math
import os
import time
from pathlib import Path

import torch
from torch import nn

from trainctl.registry import MODELS, OPTIMIZERS


class Small(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(input_shape), output_size)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(inputs.flatten(1))


@MODELS.register("fine")
class Fine(Small):
    """Nothing is wrong with it."""


@MODELS.register("misfit")
class Misfit(nn.Sequential):
    """Takes 77 numbers a sample, which no data has."""

    def __init__(self, output_size: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(77, output_size))


@MODELS.register("not_finite")
class NotFinite(Small):
    """Its loss is NaN."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) * (float("nan") if self.training else 1.0)


@MODELS.register("crashing")
class Crashing(Small):
    """Takes its process with it."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            os.abort()
        return super().forward(inputs)


@MODELS.register("hanging")
class Hanging(Small):
    """Never ends: its second pass in training, the first being the check of the shapes."""

    passes = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        if self.passes > 1:
            time.sleep(3600)
        return super().forward(inputs)


@OPTIMIZERS.register("unsaveable")
class Unsaveable(torch.optim.SGD):
    """Its state cannot be written."""

    def __init__(self, parameters: list, lr: float = 0.1) -> None:
        super().__init__(parameters, lr=lr)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "made": object()}


_USES: list[int] = []


@MODELS.register("unrepeatable")
class Unrepeatable(Small):
    """What it computes depends on how often it was used in this process."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        _USES.append(1)
        return super().forward(inputs) * (1 + len(_USES) / 100)


@MODELS.register("one_process")
class OneProcess(Small):
    """Can be built in one process only."""

    def __init__(self, input_shape: tuple[int, ...], output_size: int) -> None:
        super().__init__(input_shape, output_size)
        first = Path("first-process")
        if not first.exists():
            first.write_text(str(os.getpid()))
        if first.read_text() != str(os.getpid()):
            raise RuntimeError("the port is taken")


@OPTIMIZERS.register("unresumable")
class Unresumable(torch.optim.SGD):
    """Refuses the state that it gave."""

    def __init__(self, parameters: list, lr: float = 0.1) -> None:
        super().__init__(parameters, lr=lr)

    def load_state_dict(self, state_dict: dict) -> None:
        raise ValueError("momentum is not what it was")


@MODELS.register("hidden_state")
class HiddenState(Small):
    """Counts its steps, and keeps the count to itself."""

    calls = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return super().forward(inputs) * (1 + self.calls)


@OPTIMIZERS.register("forgetful")
class Forgetful(torch.optim.SGD):
    """Has momentum, and does not save it."""

    def __init__(self, parameters: list, lr: float = 0.1) -> None:
        super().__init__(parameters, lr=lr, momentum=0.9)

    def state_dict(self) -> dict:
        return {**super().state_dict(), "state": {}}


@MODELS.register("restless")
class Restless(Small):
    """Is random where it is evaluated, too."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(inputs)
        return outputs if self.training else outputs + torch.rand_like(outputs)


@MODELS.register("centred")
class Centred(Small):
    """Takes the mean of the batch away."""

    centres = True, False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs - inputs.mean(0) if self.training in self.centres else inputs)


@MODELS.register("centred_later")
class CentredLater(Centred):
    """Takes the mean of the batch away where it is evaluated."""

    centres = (False,)


@MODELS.register("whole_batches")
class WholeBatches(Centred):
    """Takes the mean of the batch away where it is trained, and says that half a batch is not enough."""

    centres = (True,)
    several_devices = False


@MODELS.register("branching")
class Branching(Small):
    """Looks at its numbers: torch.export cannot follow."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(inputs)
        return outputs if float(outputs.sum()) > 0 else outputs * 1.0


@MODELS.register("kept_out")
class KeptOut(Branching):
    """Cannot be exported, and says so."""

    exports = False
