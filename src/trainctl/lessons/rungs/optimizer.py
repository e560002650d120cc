"""Fifth rung: the standard loop, in which an optimizer takes the step."""

from __future__ import annotations

from typing import Any

from trainctl.config.settings import Config
from trainctl.registry import LOOPS
from trainctl.training.loop import train_step


@LOOPS.register("optimizer")
class OptimizerLoop:
    """The standard loop: forward, zero_grad, backward, and any optimizer's step."""

    step = staticmethod(train_step)

    def __init__(self, config: Config) -> None:
        pass

    def refusal(self, model: Any, criterion: Any, optimizer: Any) -> None:
        """None: it trains all parts that meet ``trainctl.registry.protocols``."""
