"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainctl.components.trackers._base import Row
from trainctl.errors import ConfigError
from trainctl.registry import TRACKERS

_PLAIN = (bool, int, float, str)


@TRACKERS.register("tensorboard")
class TensorBoard:
    """TensorBoard's event files, in ``tensorboard/`` of the run directory.

    Metrics are scalars, the config is a text and the HPARAMS page.
    """

    def __init__(self) -> None:
        try:
            # torch's own writer; it brings neither TensorFlow nor torch._dynamo.
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                f"tracker=tensorboard needs the package tensorboard: {error}",
                "pip install 'trainctl[tensorboard]'",
            ) from error
        self._make = SummaryWriter
        self._step = 0

    def start(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        folder = directory / "tensorboard"
        # All rows are written again: readers drop those of earlier files from step 0 on.
        self._writer = self._make(str(folder), purge_step=0 if folder.is_dir() else None)
        listing = "\n".join(f"    {key}: {value}" for key, value in config.items())
        self._writer.add_text("config", listing)
        self._add_hparams(config)
        self._writer.flush()

    def metrics(self, rows: Sequence[Row]) -> None:
        for step, values in rows:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._step = step
        self._writer.flush()

    def artifact(self, path: Path) -> None:
        pass  # TensorBoard shows neither weights nor SVG

    def end(self, status: str) -> None:
        self._writer.add_text("status", status, self._step)
        self._writer.close()

    def _add_hparams(self, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard.summary import hparams

        plain = {
            key: value if isinstance(value, _PLAIN) else str(value)
            for key, value in config.items()
            if value is not None
        }
        # The three parts of the HPARAMS page; SummaryWriter.add_hparams would write them to a separate
        # folder, as another run.
        for summary in hparams(plain, {"val/loss": None}):  # type: ignore[no-untyped-call]
            self._writer._get_file_writer().add_summary(summary)  # type: ignore[no-untyped-call]
