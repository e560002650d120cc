"""The loader that fits the data."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from trainctl.data import AnySplit, Split
from trainctl.data.augmentation import Augment
from trainctl.data.mixing import Mix
from trainctl.data.sampler import Sampling, Share
from trainctl.data.types import StreamSplit
from trainctl.registry import LOADERS, Count, NonNegativeInt, Positive


@LOADERS.register("auto")
def auto(
    split: AnySplit,
    transform: nn.Module,
    batch_size: int,
    device: torch.device,
    seed: int | None,
    augment: Augment | None = None,
    workers: NonNegativeInt | Literal["auto"] = "auto",
    prefetch: Count = 2,
    timeout: Positive = 120.0,
    share: Share | None = None,
    sampling: Sampling | None = None,
    mix: Mix | None = None,
) -> Any:
    """Resident for data in memory, workers for data that is loaded sample by sample; a stream as it comes.

    Args:
        workers: processes that load samples; 0 loads in the training process.
        prefetch: batches that each worker makes ahead.
        timeout: seconds without a batch after which the workers count as hung (exit 8).
        share: of this process among those that train one model.
        sampling: what an epoch draws; None: each sample once.
        mix: mixes the samples of each batch after the transform.
    """
    if isinstance(split, StreamSplit):
        from trainctl.components.loaders._streams import StreamsLoader  # with the machinery of processes

        settings = (workers, prefetch, timeout, share, mix)
        return StreamsLoader(split, transform, batch_size, device, seed, *settings)
    chosen = LOADERS.load("resident" if isinstance(split, Split) else "workers")
    given = (split, transform, batch_size, device, seed, augment, workers, prefetch, timeout)
    return chosen(*given, share, sampling, mix)
