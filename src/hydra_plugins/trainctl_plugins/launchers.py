"""trainctl's own launchers, as Hydra knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Parallel(Launcher):
    """``hydra/launcher=parallel``: warm worker processes, one a core or a GPU."""

    fused = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._task_function = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of the sweep that is being run. Serves trainctl only."""
        launch: Any = getattr(self._task_function, "launch", None)
        if launch is None:
            raise TypeError(f"hydra/launcher={type(self).__name__.lower()} launches trainctl's jobs only")
        launch(job_overrides, fused=self.fused)
        return [JobReturn() for _ in job_overrides]


class Fused(Parallel):
    """``hydra/launcher=fused``: what can be stacked trains as one model, the rest as with ``parallel``."""

    fused = True
