"""From a run directory back to a model."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trainctl import checkpoint, plugins, rundir
from trainctl.build import build_model
from trainctl.compose import read_config
from trainctl.errors import CheckpointError, ConfigError


def load_model(run: str | Path, which: str = "best", *, trust_plugins: bool = False) -> nn.Module:
    """See :func:`trainctl.load`."""
    if which not in ("best", "last"):
        raise ConfigError(f"which={which}: must be best or last")
    directory = rundir.find(run)
    record = rundir.read_record(directory)
    stored = (record.get("environment") or {}).get("plugins") or []

    def trusted(named: list[str]) -> None:
        if not trust_plugins:
            plugins.refuse_changed(named, stored)

    config = read_config(directory / "config.yaml", trusted)
    chosen = checkpoint.best_of(directory, record, which)
    content = checkpoint.read(chosen)
    data = content.state["data"]
    model: nn.Module = build_model(config.model, tuple(data["input_shape"]), data["output_size"])
    try:
        model.load_state_dict(content.model)
    except RuntimeError as error:
        raise CheckpointError(f"{chosen} does not fit model={config.model.name}: {error}") from error
    return model.eval()
