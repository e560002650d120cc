"""What the rungs share that update the parameters themselves."""

from __future__ import annotations

from typing import Any

from trainctl.config.settings import Config, show
from trainctl.errors import ConfigError

_PLAIN_SGD = ("sgd", "scratch_sgd")
_LINEAR = ("linear", "scratch_linear")


class ByHand:
    """``parameter -= lr * gradient`` and nothing more, which is what optim=sgd does.

    Raises ConfigError where the config asks for more.
    """

    resumes = False

    def __init__(self, config: Config) -> None:
        name, optim = config.loop.name, config.optim
        asked = {key: value for key, value in optim.arguments.items() if key not in ("lr", "fused") and value}
        if optim.name not in _PLAIN_SGD or asked:
            given = "".join(f" optim.{key}={value}" for key, value in asked.items())
            raise ConfigError(
                f"loop={name} steps by hand, parameter -= lr * gradient, not as optim={optim.name}{given}",
                "use optim=sgd with lr alone, or loop=optimizer for every optimizer",
            )
        for key, value, plain in (
            ("scheduler", config.scheduler.name, "none"),
            ("train.accumulate", config.train.accumulate, 1),
            ("train.clip_norm", config.train.clip_norm, None),
            ("guard.gradients", config.guard.gradients, False),
        ):
            if value != plain:
                raise ConfigError(
                    f"loop={name}: there is no optimizer that {key}={show(value)} could work on",
                    f"use {key}={show(plain)}, or loop=optimizer",
                )
        self.config = config

    def needs_linear(self) -> None:
        """Raise ConfigError for a model that is not one linear layer, all of it trained."""
        model = self.config.model
        if model.name not in _LINEAR or model.common.get("freeze"):
            what = f"model={model.name}" if model.name not in _LINEAR else "model.freeze"
            raise ConfigError(
                f"loop={self.config.loop.name}: it knows the weight and bias of model=linear, not {what}",
                "use model=linear, or loop=layers for a network",
            )

    def refusal(self, model: Any, criterion: Any, optimizer: Any) -> str | None:
        """Why this rung cannot serve these parts, or None."""
        return None
