"""``compile=``: torch.compile for a model, tried before the first step."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainctl.checkpoint import snapshot
from trainctl.config.settings import Config
from trainctl.errors import ConfigError
from trainctl.registry.constraints import show
from trainctl.training.buffers import Buffers
from trainctl.training.failures import line_of
from trainctl.training.loop import evaluating
from trainctl.training.run import Hook, Run


def refuse_compile(config: Config, model: Any) -> None:
    """Raise ConfigError for what cannot be compiled as asked."""
    asked = f"compile={show(config.compile)}"
    if config.loop.name != "optimizer":
        raise ConfigError(
            f"{asked}: compile requires loop=optimizer; loop={config.loop.name} accesses layers directly",
            "use loop=optimizer, or compile=false",
        )
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{asked}: torch compiles its own modules, and model={config.model.name} is plain Python",
            "use compile=false, or a model of torch such as model=mlp",
        )


class Compiled(Hook):
    """Compiles the model of the run in place and tries it; a model that cannot be compiled stays plain.

    In place (``nn.Module.compile``), so that parameters keep their names and a checkpoint does not depend on
    it. After the trial random numbers, gradients and buffers are as before.

    Args:
        mode: of torch.compile: default, reduce-overhead or max-autotune.
        batch_size: samples of the trial.
    """

    name = "compile"

    def __init__(self, model: Any, mode: str, batch_size: int) -> None:
        self.model, self.mode, self.batch_size = model, mode, batch_size

    def start(self, run: Run) -> None:
        device = next(self.model.parameters()).device
        random_states, buffers = snapshot.RandomStates(device), Buffers(self.model)
        before = random_states.state_dict()
        copies = buffers.copied()
        run.announce("compile", f"compiling the model (mode {self.mode}): this takes a while", self.mode)
        try:
            with _no_advice():
                self.model.compile(mode=self.mode, backend="inductor")
                self._try(run)
        except Exception as error:
            self.model._compiled_call_impl = None
            reason = line_of(error)
            text = f"compile={self.mode} failed, the model runs as it is: {reason}"
            run.announce("compile", text, f"not compiled: {reason}")
        finally:
            for parameter in self.model.parameters():
                parameter.grad = None
            buffers.put_back(copies)
            random_states.load_state_dict(before)

    def _try(self, run: Run) -> None:
        """Forward, backward and an evaluation, also of the smaller batch that ends an epoch."""
        window = next(iter(run.train_loader.batches()))
        inputs, targets = window.inputs[: self.batch_size], window.targets[: self.batch_size]
        for size in {len(targets): None, run.train_loader.samples % self.batch_size or len(targets): None}:
            with run.precision:
                loss = run.criterion(self.model(inputs[:size]), targets[:size])
            loss.backward()
            if run.result is self.model:
                with evaluating(self.model), torch.no_grad(), run.precision:
                    self.model(inputs[:size])


@contextmanager
def _no_advice() -> Iterator[None]:
    """Without torch's advice on its own settings and on a GPU that is not there."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
