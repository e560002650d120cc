"""Weights & Biases."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trainctl.components.trackers._base import Row
from trainctl.errors import ConfigError
from trainctl.registry import TRACKERS
from trainctl.runs import files

# Files wait here to be sent; W&B's own choice is the home folder.
_STAGING = "WANDB_DATA_DIR"
_STAGING_IS_GIVEN = _STAGING in os.environ
_SIGNED_IN = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
# The metrics, the settings and the files, and nothing else; no prompt, and an end to waiting for a server.
_SETTINGS = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "save_code": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
    "init_timeout": 30.0,
}


@TRACKERS.register("wandb")
class Wandb:
    """Weights & Biases: settings, metrics and files as a run of a project, on a server or in a folder.

    ``wandb.json`` in the run directory has W&B's id of the run, with which a resumed run continues. W&B
    cannot replace a value: of a step that is trained again after a resume the server keeps the first.
    Offline, the newest folder in ``wandb/`` has the whole run, and earlier ones are renamed, so that
    ``wandb sync`` takes that one.

    Args:
        project: the project that the run belongs to.
        entity: user or team; null is your own default.
        mode: ``online`` or ``offline``; null takes WANDB_MODE and ``wandb offline``, or else online.
        group: what the run is grouped under; null is its sweep, if it belongs to one.
        uri: a server of one's own; null takes WANDB_BASE_URL and W&B's own settings.
    """

    def __init__(
        self,
        project: str = "trainctl",
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        group: str | None = None,
        uri: str | None = None,
    ) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                f"tracker=wandb needs the package wandb: {error}", "pip install 'trainctl[wandb]'"
            ) from error
        given: Any = wandb.setup().settings
        self.offline = (mode or given.mode) == "offline"
        self._server = {"base_url": uri or str(given.base_url)}
        if not self.offline:
            _require_account(self._server["base_url"])
        self._wandb: Any = wandb
        self.project, self.entity, self.group = project, entity, group
        self._first = 0

    def start(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        note, folder = directory / "wandb.json", directory / "wandb"
        before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        self.run_id = str(before.get("run_id") or secrets.token_hex(8))
        if not before:
            files.replace(note, json.dumps({"run_id": self.run_id}).encode())
        earlier = list(folder.glob("offline-run-*"))
        if not _STAGING_IS_GIVEN:
            os.environ[_STAGING] = str(folder)
        sweep = directory.parent
        in_sweep = "/".join(sweep.parts[-2:]) if (sweep / "sweep.json").is_file() else None
        self._run = self._wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or in_sweep,
            id=self.run_id,
            name=name,
            dir=str(directory),
            mode="offline" if self.offline else "online",
            # Offline there is nothing to continue: all rows are written again.
            resume=None if self.offline else "allow",
            # Several runs of one process, and threads of them.
            reinit="create_new",
            settings=self._wandb.Settings(**_SETTINGS, **self._server),
        )
        for path in earlier:
            path.rename(folder / f"earlier-{path.name}")
        self._run.config.update(dict(config), allow_val_change=True)
        self._run.define_metric("*", step_metric="step")
        self._first = self._run.starting_step
        self._files = self._wandb.Artifact(f"run-{self.run_id}", type="run")

    def metrics(self, rows: Sequence[Row]) -> None:
        for step, values in rows:
            if (place := _place(step, values)) >= self._first:
                self._run.log({"step": step, **values}, step=place)

    def artifact(self, path: Path) -> None:
        self._files.add_file(str(path))

    def end(self, status: str) -> None:
        if self._files.manifest.entries:
            self._run.log_artifact(self._files)
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "done" else 1)


def _place(step: int, values: Mapping[str, float]) -> int:
    """W&B's own number of a row, which must grow: a step may have training, an evaluation and a test.

    With one for all three, a run that was stopped before the evaluation of a step could not add it.
    """
    if "train/loss" in values:
        return 3 * step
    return 3 * step + (2 if any(name.startswith("test/") for name in values) else 1)


def _require_account(url: str) -> None:
    """Raise ConfigError where no key for the server is stored: W&B would ask for one in the terminal."""
    from requests.utils import get_netrc_auth

    if not any(map(os.environ.get, _SIGNED_IN)) and get_netrc_auth(url) is None:
        raise ConfigError(
            f"tracker=wandb: you are not logged in at {url}",
            "wandb login; or tracker.wandb.mode=offline, and `wandb sync` later",
        )
