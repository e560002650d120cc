"""``hydra/launcher=ray``: its settings, what a job takes of the cluster, and the connection to it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict

from trainctl.config.settings import Config
from trainctl.config.validation import check_settings
from trainctl.errors import ConfigError
from trainctl.training.interrupts import TERMINATING

_START = "start one with `ray start --head`, or give hydra.launcher.address=HOST:PORT or =local"


class RaySettings(BaseModel):
    """``hydra.launcher`` of ``hydra/launcher=ray``; its file explains each."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    address: str
    cpus: Literal["auto"] | Annotated[float, Gt(0)]
    gpus: Literal["auto"] | Annotated[float, Ge(0)]


@dataclass(frozen=True, order=True)
class Needs:
    """The GPUs and CPUs of one node that a job takes; what has more GPUs is more."""

    gpus: float
    cpus: float

    def fitting(self, resources: Mapping[str, float]) -> int:
        """How many such jobs a node with these resources runs at a time."""
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        return int(min(resources.get(key, 0) / each for key, each in asked.items() if each) + 1e-6)

    def __str__(self) -> str:
        parts = [(self.cpus, "CPU"), *([(self.gpus, "GPU")] if self.gpus else [])]
        return " and ".join(f"{value:g} {unit}{'s' if value > 1 else ''}" for value, unit in parts)


def check_ray(values: Mapping[str, Any]) -> RaySettings:
    """The settings, connected to their cluster. Raises ConfigError."""
    settings = check_settings(RaySettings, "hydra.launcher", values)
    connect(settings.address)
    return settings


def connect(address: str) -> Any:
    """The module ray, connected to the cluster at ``address``. Raises ConfigError where there is none."""
    try:
        # Before the import: a Ray that is started here sends nothing about its use.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError:
        raise ConfigError(
            "hydra/launcher=ray: the package ray is not installed", "pip install 'trainctl[ray]'"
        ) from None
    if ray.is_initialized():
        return ray
    given = address if address != "auto" else os.environ.get("RAY_ADDRESS") or "auto"
    if given.startswith("ray://"):
        raise ConfigError(
            f"hydra.launcher.address={given}: a sweep cannot be a client of the cluster",
            "run the command on one of its nodes, with hydra.launcher.address=auto",
        )
    options: dict[str, Any] = {"include_dashboard": False} if given == "local" else {}
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATING)}
    try:
        ray.init(address=given, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        where = f"hydra.launcher.address={given}"
        if given == "auto":
            raise ConfigError(f"{where}: no Ray cluster runs here", _START) from error
        raise ConfigError(f"{where}: no connection to a Ray cluster ({said})", _START) from error
    finally:
        for number, handler in before.items():  # Ray's own would end the sweep before its jobs are saved
            signal.signal(number, handler)
    return ray


def nodes(ray: Any) -> list[Mapping[str, float]]:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def places(settings: RaySettings, config: Config) -> int:
    """How many jobs with this config the cluster runs at a time; at least one, as nodes may come."""
    resources = nodes(connect(settings.address))
    needs = needs_of(config, settings, has_gpus=any(each.get("GPU") for each in resources))
    count = max(1, sum(map(needs.fitting, resources)))
    return count if config.sweep.jobs == "auto" else min(count, config.sweep.jobs)


def needs_of(config: Config, settings: RaySettings, *, has_gpus: bool) -> Needs:
    """What a job with this config takes of a cluster that has GPUs, or none."""
    devices = config.devices if isinstance(config.devices, int) else 1
    threads = config.threads if isinstance(config.threads, int) else 1
    on_gpus = config.device.startswith("cuda") or (config.device == "auto" and has_gpus)
    cpus = devices * threads if settings.cpus == "auto" else settings.cpus
    gpus = (devices if on_gpus else 0) if settings.gpus == "auto" else settings.gpus
    return Needs(float(gpus), float(cpus))
