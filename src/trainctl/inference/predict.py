"""Raw samples to predictions, and predictions to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.data.inputs import count_numbers
from trainctl.data.preprocessing import describe_samples, shown
from trainctl.errors import CheckpointError, ConfigError
from trainctl.inference.readers.base import Batch, Source, evenly
from trainctl.inference.trained_run import Trained
from trainctl.inference.writers.base import Outcome, Writer
from trainctl.training import runtime

Opening = Callable[[Any, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], Source]
_NUMBERS = 1 << 16


def open_samples(
    trained: Trained, opening: Opening, samples: Any, size: int | None = None
) -> tuple[Source, int]:
    """The reader that ``opening`` makes for ``samples``, and how many the model gets at a time.

    Raises ConfigError for samples that are not like those of training, CheckpointError where the checkpoint
    does not describe these.
    """
    try:
        raw = trained.raw_sample()
        # Small samples are not worth a call of the model for as few as in training.
        size = size or max(trained.config.train.batch_size, _NUMBERS // max(1, count_numbers(raw["shape"])))
        return opening(samples, raw, trained.reading, trained.config.dataset.arguments), size
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{trained.checkpoint} does not say how its data was read: {error}") from error


class Predictor:
    """Raw samples to the predictions of the task, in evaluation mode, one batch a call.

    ``precision`` defaults to the run's.

    Shape: (N, *raw) → (N, classes) or (N, outputs) on the CPU, float32 or, of scaled targets, float64.
    """

    def __init__(self, trained: Trained, transform: nn.Module, precision: str | None = None) -> None:
        runtime.set_deterministic(trained.config.deterministic)
        torch.set_float32_matmul_precision(trained.config.train.matmul)
        self.model, self.transform, self.device = trained.model, transform, trained.device
        precision = precision or trained.config.train.precision
        self.precision = runtime.precision_context(precision, trained.device)
        self.task, self.readout = trained.task, trained.readout

    @torch.no_grad()
    def __call__(self, raw: Tensor) -> Tensor:
        inputs = self.transform(raw.to(self.device))
        with self.precision:
            outputs = self.model(inputs)
        return self.task.predict(self.readout(outputs.float())).cpu()


def predict(
    predictor: Predictor,
    source: Source,
    writer: Writer,
    batch_size: int,
    watch: Callable[[Outcome], object] = lambda outcome: None,
) -> Outcome:
    """Predict all of ``source`` into ``writer``; ``watch`` is called after each batch.

    Raises ConfigError where no sample could be predicted.
    """
    outcome = Outcome()
    with writer:
        for batch in evenly(source.batches(batch_size), batch_size):
            writer.add(batch, _predicted(predictor, batch, source.unit), outcome)
            watch(outcome)
        if outcome.samples and outcome.bad == outcome.samples:
            why = f": {outcome.errors[0]}" if outcome.errors else ""
            raise ConfigError(
                f"none of {outcome.samples} {writer.unit}s could be predicted{why}", "nothing was written"
            )
    return outcome


def _predicted(predictor: Predictor, batch: Batch, unit: str) -> Tensor:
    if not len(batch.inputs):
        return torch.empty(0, 1)
    try:
        return predictor(batch.inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"the model does not accept samples of shape {shown(describe_samples(batch.inputs))}"
            f" ({unit}s {batch.names[0]} to {batch.names[-1]}): {reason}",
            "use samples as in training, or a smaller --batch-size if memory ran out",
        ) from error
