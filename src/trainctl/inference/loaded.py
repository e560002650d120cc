"""A trained model for programs: a module of tensors that also predicts from what people hold."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainctl.data.readout import Readout
from trainctl.errors import ConfigError
from trainctl.inference.pipeline import Pipeline
from trainctl.inference.predict import Predictor, open_samples, predict
from trainctl.inference.readers.memory import held_source
from trainctl.inference.trained_run import Trained, load_run
from trainctl.inference.writers import records_of
from trainctl.training import runtime

_AS_TRAINED = ContextVar("whether a loaded model returns outputs in the unit of the loss", default=False)

if TYPE_CHECKING:

    class Loaded(nn.Module):
        """What :func:`trainctl.load` returns."""

        predict: Predict


def load_model(
    run: str | Path, which: str = "best", *, preprocess: bool = False, trust_plugins: bool = False
) -> Loaded:
    """See :func:`trainctl.load`."""
    if which not in ("best", "last"):
        raise ConfigError(f"which={which}: must be best or last")
    trained = load_run(run, which, trust_plugins=trust_plugins, device=torch.device("cpu"))
    # Its tensors are in the model by now.
    trained = replace(trained, content=replace(trained.content, model={}, training={}))
    model: Any = trained.model
    if preprocess:
        model = Pipeline(trained.transform(), model, trained.readout.for_programs(), trained.task).eval()
    elif trained.readout.mean is not None:
        model.register_forward_hook(_InUnit(trained.readout.for_programs()))
    if not hasattr(model, "predict"):
        model.predict = Predict(trained)
    loaded: Loaded = model
    return loaded


@dataclass(frozen=True)
class _InUnit:
    """A forward hook: scaled outputs in the unit of the data. The state of the model stays what it is."""

    readout: Readout

    def __call__(self, model: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        return outputs if _AS_TRAINED.get() else self.readout.unscaled(outputs)


class Predict:
    """The ``predict`` of a loaded model: samples as people hold them to what ``trainctl predict`` writes.

    Reading, preprocessing, batches, precision and threads are those of the verb, so the values are the same
    to the last bit; the model runs in evaluation mode, where its parameters are. Warnings name columns that
    the run does not use, and count what was read otherwise than it stands there.
    """

    def __init__(self, trained: Trained) -> None:
        self._trained = trained

    @cached_property
    def _transform(self) -> nn.Module:
        return self._trained.transform()

    def __call__(self, inputs: Any, *, batch_size: int | None = None) -> list[dict[str, Any]]:
        """Predict samples.

        Args:
            inputs: rows, as a list of dicts, a DataFrame of pandas or polars, or an arrow table; texts; an
                image of Pillow, or a list of them; an array or tensor of raw samples (N, *raw), or one of
                them (of several inputs a dict or tuple of these); or the path of a file or folder, as the
                verb takes it.
            batch_size: samples at a time; as the verb chooses it.

        Returns a dict for each sample: ``row``, from 1, or ``file``, ``prediction`` and ``probabilities``, as
        the task has them, of masks ``mask`` and ``shares``; ``error`` in their place where the sample cannot
        be read; ``note`` where it holds a category that training did not have.

        Raises ConfigError where the samples do not fit the run, or none of them can be predicted.
        """
        source, size = open_samples(self._trained, held_source, inputs, batch_size)
        for notice in source.notices:
            warnings.warn(notice, stacklevel=2)
        writer = records_of(source, self._trained)
        with _as_trained(self._trained) as trained:
            predict(Predictor(trained, self._transform.to(trained.device)), source, writer, size)
        for remark in source.remarks():
            warnings.warn(remark, stacklevel=2)
        return writer.records


@contextlib.contextmanager
def _as_trained(trained: Trained) -> Iterator[Trained]:
    """``trained`` where its model is now, which predicts in the block as the verb has it predict."""
    model = trained.model
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [module for module in modules if module.training]
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = trained.device if parameter is None else parameter.device
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    token = _AS_TRAINED.set(True)
    try:
        model.eval()
        torch.set_num_threads((trained.record.get("environment") or {}).get("threads") or threads)
        yield replace(trained, device=device, readout=trained.readout.on(device))
    finally:
        _AS_TRAINED.reset(token)
        for module in training:
            module.training = True
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        runtime.set_deterministic(deterministic)
