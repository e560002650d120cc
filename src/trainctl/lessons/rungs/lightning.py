"""Last rung: Lightning's Trainer trains the same parts."""

from __future__ import annotations

import importlib.util
import logging
import random
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainctl.config.settings import Config
from trainctl.errors import ConfigError
from trainctl.registry import LOOPS
from trainctl.registry.constraints import show
from trainctl.registry.protocols import Batch
from trainctl.training.loop import end_epoch, remaining, train_step
from trainctl.training.run import Run

if TYPE_CHECKING:
    import lightning


@LOOPS.register("lightning")
class LightningLoop:
    """Model, loss, optimizer, scheduler and data, trained by Lightning's Trainer.

    Lightning runs the training loop; trainctl's hooks (log, display, evaluation, checkpoints) run in its
    callbacks, so the numbers compare with those of the other rungs. Needs the extra ``trainctl[lightning]``.
    """

    resumes = False
    step = staticmethod(train_step)

    def __init__(self, config: Config) -> None:
        if importlib.util.find_spec("lightning") is None:
            raise ConfigError(
                "loop=lightning: Lightning is not installed", "pip install 'trainctl[lightning]'"
            )
        for key, value, plain in (
            ("train.accumulate", config.train.accumulate, 1),
            # Lightning computes gradients inside the optimizer's step: a hook before it sees none.
            ("train.clip_norm", config.train.clip_norm, None),
            ("guard.gradients", config.guard.gradients, False),
            ("guard.skip", config.guard.skip, 0),
        ):
            if value != plain:
                raise ConfigError(
                    f"loop=lightning does not support {key}={show(value)}",
                    f"use {key}={show(plain)}, or loop=optimizer",
                )

    def refusal(self, model: Any, criterion: Any, optimizer: Any) -> str | None:
        """Lightning takes torch's own classes only."""
        if not isinstance(model, nn.Module):
            return f"Lightning needs a torch.nn.Module, and the model is a {type(model).__name__}"
        if not isinstance(optimizer, torch.optim.Optimizer):
            return f"Lightning needs a torch.optim.Optimizer, and this one is a {type(optimizer).__name__}"
        return None

    def fit(self, run: Run) -> None:
        """Train ``run`` to its last step, or until a hook asks it to stop."""
        state = random.getstate()
        import lightning  # the first import draws random numbers

        random.setstate(state)
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        device = next(run.model.parameters()).device
        with warnings.catch_warnings():
            # Advice on worker processes and loggers; trainctl's loader makes the batches.
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            trainer = lightning.Trainer(
                max_epochs=-1,
                max_steps=run.total_steps,
                accelerator={"cuda": "gpu"}.get(device.type, device.type),
                devices=[device.index or 0] if device.type == "cuda" else 1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[_callback(run)],
            )
            trainer.fit(_module(run), train_dataloaders=_Batches(run))
        run.model.to(device)  # Lightning leaves it on the CPU
        run.call("end")


def _module(run: Run) -> lightning.LightningModule:
    """The run as a LightningModule: its step and its optimizer."""
    import lightning

    guard = run.hook("guard")

    class Supervised(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.criterion = run.model, run.criterion

        def training_step(self, batch: Batch, number: int) -> Tensor:
            with run.precision:
                loss: Tensor = self.criterion(self.model(batch.inputs), batch.targets)
            if guard is not None:
                guard.accepts_loss(loss)  # or NotFiniteError, which ends the run
            return loss

        def configure_optimizers(self) -> Any:
            if run.scheduler is None:
                return run.optimizer
            return {
                "optimizer": run.optimizer,
                "lr_scheduler": {"scheduler": run.scheduler, "interval": "step"},
            }

    return Supervised()


class _Batches:
    """The training batches of the next epoch, as an iterable that Lightning accepts as a loader."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __len__(self) -> int:
        return len(self.run.train_loader)

    def __iter__(self) -> Iterator[Batch]:
        return iter(remaining(self.run))


def _callback(run: Run) -> lightning.Callback:
    """trainctl's hooks, called when Lightning's come."""
    import lightning

    batch_hooks = [hook for hook in run.hooks if hook.overrides("batch")]
    step_hooks = [hook for hook in run.hooks if hook.overrides("step")]

    def obey(trainer: Any) -> None:
        if run.control.agreed():
            run.obey()
        trainer.should_stop = run.state.stop is not None

    class Watch(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            run.call("start")

        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            self.started = time.perf_counter()

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Batch, number: int) -> None:
            for hook in batch_hooks:
                hook.batch(run, batch)
            self.lr = run.optimizer.param_groups[0]["lr"]

        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Batch, number: int
        ) -> None:
            run.state.stepped(batch, self.lr)
            for hook in step_hooks:
                hook.step(run, outputs["loss"].detach())
            obey(trainer)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            run.state.epoch_seconds += time.perf_counter() - self.started
            end_epoch(run)
            obey(trainer)

    return Watch()
