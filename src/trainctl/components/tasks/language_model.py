"""Language modelling: each token of a window predicts the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainctl.components.tasks._base import Task, as_tensor, described
from trainctl.data.tokenizer import stored_tokenizer
from trainctl.data.types import Data
from trainctl.errors import ConfigError
from trainctl.registry import TASKS

IGNORED = -100
"""The target of a position that counts nowhere, as in torch's losses."""


@TASKS.register("language_model")
class LanguageModel(Task):
    """Next tokens: targets are int64 of shape (N, window), those of the inputs one place on; -100 is ignored.

    A model gives (N, vocabulary, window). The prediction for a window is of the token behind it.
    """

    name = "language_model"
    targets = "the next tokens"
    predictions = "probabilities"
    loss = "cross_entropy"
    loss_targets = ("class",)
    metrics = ("perplexity",)
    best = "perplexity"
    example = (
        "dataset=text", "++dataset.context=16", "model=transformer", "++model.width=16", "++model.depth=1",
    )  # fmt: skip

    def converted(self, where: str, targets: Any) -> Tensor:
        """Tokens (N, window) int64, from whole numbers of any type."""
        values = as_tensor(where, targets)
        numbers = values if values.is_complex() else values.to(torch.int64)
        if values.dim() != 2 or not bool((numbers.to(values.dtype) == values).all()):
            raise ConfigError(
                f"{where} targets are {described(values)}; next tokens are whole numbers, (N, window)",
                f"give the token that follows each token of the inputs, {IGNORED} where none counts",
            )
        return numbers

    def check(self, where: str, targets: Tensor, outputs: int) -> None:
        counted = targets[targets != IGNORED]
        if not len(counted):
            raise ConfigError(f"{where} targets are all ignored ({IGNORED})", "give tokens to predict")
        low, high = int(counted.min()), int(counted.max())
        if low < 0 or high >= outputs:
            raise ConfigError(
                f"{where} target {low if low < 0 else high} is outside its vocabulary of {outputs}"
                f" (0 to {outputs - 1})",
                f"number the tokens from 0; {IGNORED} ignores a position",
            )

    def check_loss(self, loss: str, criterion: Any, data: Data) -> None:
        splits = [split for split in (data.train, data.val, data.test) if split is not None]
        ignored = any(bool((split.targets == IGNORED).any()) for split in splits)
        if ignored and getattr(criterion, "ignore_index", None) != IGNORED:
            raise ConfigError(
                f"loss={loss} has no ignore_index of {IGNORED}, and some targets are to be ignored",
                "use loss=cross_entropy",
            )

    def predict(self, outputs: Tensor) -> Tensor:
        """The probabilities of the token behind the window, (N, vocabulary)."""
        return outputs[..., -1].softmax(1)

    def columns(self, classes: Sequence[str], outputs: int) -> list[str]:
        return ["prediction", "probability"]

    def cells(self, prediction: Sequence[float], classes: Sequence[str]) -> list[Any]:
        best = max(prediction)
        return [prediction.index(best), best]

    def fields(self, prediction: Sequence[float], classes: Sequence[str]) -> dict[str, Any]:
        return {"prediction": prediction.index(max(prediction)), "probabilities": list(prediction)}

    def kept(self, outputs: Tensor) -> Tensor:
        """Nothing: there are no tables."""
        return outputs.flatten(1)[:, :0]

    @torch.no_grad()
    def continued(
        self, model: Any, prompt: str, reading: Mapping[str, Any], length: int, temperature: float, seed: int
    ) -> Iterator[str]:
        try:
            tokenizer = stored_tokenizer(reading)
        except ConfigError as error:
            raise ConfigError(f"--prompt: {error}", error.problems[0].remedy) from error
        tokens = tokenizer.encode(prompt.encode()).tolist()
        if not tokens:
            raise ConfigError("--prompt: is empty", "give at least one character")
        yield from tokenizer.decoded(
            list(tokens), self._drawn(model, tokens, reading["context"], length, temperature, seed), length
        )

    def _drawn(
        self, model: Any, tokens: list[int], context: int, length: int, temperature: float, seed: int
    ) -> Iterator[int]:
        """The tokens that go on after ``tokens``, which grow."""
        device, draws = next(model.parameters()).device, torch.Generator().manual_seed(seed)
        for _ in range(length):
            window = torch.tensor([tokens[-context:]], device=device)
            logits = model(window)[0, :, -1].double().cpu()
            if temperature:
                chosen = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=draws))
            else:
                chosen = int(logits.argmax())
            tokens.append(chosen)
            yield chosen
