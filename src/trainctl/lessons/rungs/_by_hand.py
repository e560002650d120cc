"""The base of the rungs that update the parameters themselves."""

from __future__ import annotations

from typing import Any

from trainctl.config.settings import Config
from trainctl.errors import ConfigError
from trainctl.registry.constraints import show

_PLAIN_SGD = ("sgd", "scratch_sgd")
_LINEAR = ("linear", "scratch_linear")


class ByHand:
    """``parameter -= lr * gradient`` and nothing more, as optim=sgd does.

    Raises ConfigError for a config that requires more.
    """

    resumes = False
    raw_targets = True

    def __init__(self, config: Config) -> None:
        name, optim = config.loop.name, config.optim
        asked = {key: value for key, value in optim.arguments.items() if key not in ("lr", "fused") and value}
        if optim.name not in _PLAIN_SGD or asked:
            given = "".join(f" optim.{key}={value}" for key, value in asked.items())
            raise ConfigError(
                f"loop={name} requires optim=sgd with only lr set, not optim={optim.name}{given}",
                "use optim=sgd, or loop=optimizer for any optimizer",
            )
        for key, value, plain in (
            ("scheduler", config.scheduler.name, "none"),
            ("train.accumulate", config.train.accumulate, 1),
            ("train.clip_norm", config.train.clip_norm, None),
            ("guard.gradients", config.guard.gradients, False),
        ):
            if value != plain:
                raise ConfigError(
                    f"{key}={show(value)} requires loop=optimizer: loop={name} steps without an optimizer",
                    f"use {key}={show(plain)}, or loop=optimizer",
                )
        self.config = config

    def needs_linear(self) -> None:
        """Raise ConfigError for a model other than one linear layer without frozen parameters."""
        model = self.config.model
        if model.name not in _LINEAR or model.common.get("freeze"):
            what = f"model={model.name}" if model.name not in _LINEAR else "model.freeze"
            raise ConfigError(
                f"loop={self.config.loop.name} requires model=linear, all of it trained, not {what}",
                "use model=linear, or loop=layers for a network",
            )

    def refusal(self, model: Any, criterion: Any, optimizer: Any) -> str | None:
        """Why this rung cannot train these parts, or None."""
        return None
