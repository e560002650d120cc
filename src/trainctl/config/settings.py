"""A run's settings as plain, typed objects. Imports neither Hydra nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Len
from pydantic import BaseModel, ConfigDict, Field

from trainctl.registry.constraints import Count, Fraction, NonNegative, NonNegativeInt, Positive, Seed

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)
_UpTo1024 = Annotated[int, Ge(1), Le(1024)]


class _Settings(BaseModel):
    model_config = STRICT


class Train(_Settings):
    """How long and how to train."""

    epochs: Literal["auto"] | Count | None
    max_steps: Count | None
    batch_size: Count
    accumulate: Count
    micro_batch: Literal["auto"] | Count | None = None
    activation_checkpoint: list[str] = []
    precision: Literal["fp32", "bf16"]
    matmul: Literal["highest", "high", "medium"]
    capture: bool | Literal["auto"]
    clip_norm: Positive | None
    ema: Fraction | None
    overfit_batches: Count | None
    metrics: Annotated[
        Literal["auto"] | list[str | Annotated[dict[str, dict[str, Any]], Len(1, 1)]],
        Field(description="auto, or a list such as [accuracy, {top_k_accuracy: {k: 3}}]"),
    ]
    monitor: Annotated[str, Field(pattern=r"^(auto|val/[a-z0-9_]+)$", description="auto, or val/METRIC")]
    patience: Count | None
    min_delta: NonNegative

    @property
    def piece(self) -> int:
        """Samples that are computed at once, where memory is enough for them."""
        asked = self.micro_batch
        return min(self.batch_size, asked) if isinstance(asked, int) else self.batch_size


class Checkpoint(_Settings):
    """When checkpoints are saved, and how many are kept."""

    every_epochs: Literal["auto"] | Count | None
    every_steps: Count | None
    every_minutes: Positive | None
    keep_last: Count
    keep_best: Count
    overlap: bool
    mirror: Annotated[
        str | None,
        Field(
            pattern=r"^[a-z][a-z0-9+.-]*://[^@\s]+$", description="a URL such as s3://BUCKET/FOLDER, or null"
        ),
    ] = None


class Guard(_Settings):
    """What is checked in every training step."""

    loss: bool
    gradients: bool
    skip: NonNegativeInt


class Display(_Settings):
    """What is shown while training."""

    mode: Literal["auto", "rich", "plain", "none"]
    every: Count | None


class Sweep(_Settings):
    """How the jobs of a sweep are run."""

    jobs: Literal["auto"] | _UpTo1024
    fail_fast: bool


class Ddp(_Settings):
    """Each device has the whole model."""

    name: Annotated[Literal["ddp"], Field(description="ddp or fsdp")] = "ddp"
    bucket_mb: Positive = 25.0
    find_unused: bool = False
    timeout: Positive = 600.0


class Fsdp(_Settings):
    """Each device has a part of the model."""

    name: Literal["fsdp"]
    wrap: Literal["auto"] | list[str] = "auto"
    min_parameters: Count = 100_000
    precision: Literal["fp32", "bf16"] = "fp32"
    offload: bool = False
    timeout: Positive = 600.0


class TopLevel(_Settings):
    """The settings that belong to no group."""

    seed: Seed
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps")
    ]
    devices: Literal["auto"] | _UpTo1024 = 1
    threads: Literal["auto"] | _UpTo1024
    deterministic: bool
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"]
    profile: bool
    name: str | None
    init_from: str | None
    plugins: list[str]
    pictures: bool
    system_metrics: Positive | None = None


GROUPS: dict[str, type[_Settings]] = {
    "train": Train,
    "checkpoint": Checkpoint,
    "guard": Guard,
    "display": Display,
    "sweep": Sweep,
    "strategy": Ddp,
}
STRATEGIES: dict[str, type[_Settings]] = {"ddp": Ddp, "fsdp": Fsdp}
"""What the group ``strategy`` holds, by its ``name``."""


@dataclass(frozen=True)
class Component:
    """A chosen component: its registered name, its constructor's arguments and the common ones."""

    group: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """The checked config of one run."""

    seed: int
    device: str
    devices: int | Literal["auto"]
    threads: int | Literal["auto"]
    deterministic: bool
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"]
    profile: bool
    name: str | None
    init_from: str | None
    plugins: tuple[str, ...]
    pictures: bool
    system_metrics: float | None
    train: Train
    checkpoint: Checkpoint
    guard: Guard
    display: Display
    sweep: Sweep
    strategy: Ddp | Fsdp
    model: Component
    loss: Component
    optim: Component
    scheduler: Component
    dataset: Component
    loader: Component
    loop: Component
    metrics: tuple[Component, ...] | None
    """The metrics that ``train.metrics`` lists; None for those of the task."""
    trackers: Mapping[str, Component]
    """By label, which is the tracker's name unless two of one kind are chosen."""
