"""MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainctl.components.trackers._base import CleanNames, Row
from trainctl.errors import ConfigError
from trainctl.registry import TRACKERS
from trainctl.runs import files

log = logging.getLogger("trainctl")
_NOT_ALLOWED = r"[^\w\-. :/]"
_MOST_METRICS, _MOST_PARAMETERS, _LONGEST = 1000, 100, 6000
_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "terminated": "KILLED"}
# No usage reports, and a limit on waiting for a server that does not answer.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@TRACKERS.register("mlflow")
class MLflow:
    """MLflow: settings, metrics and files as a run of an experiment, in a local database or on a server.

    ``mlflow.json`` in the run directory has MLflow's id of the run, with which a resumed run continues.
    MLflow cannot replace a value: of a step that is trained again after a resume it keeps the first.

    Args:
        uri: ``sqlite:///FILE``, or a server's ``http://…``; null takes the environment variable
            MLFLOW_TRACKING_URI, or else ``mlflow.db`` in the current folder.
        experiment: the experiment that the run belongs to.
    """

    def __init__(self, uri: str | None = None, experiment: str = "trainctl") -> None:
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from mlflow import MlflowClient, entities

                if uri.startswith("sqlite:"):
                    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - here it cannot warn
        except ImportError as error:
            raise ConfigError(
                f"tracker=mlflow needs MLflow: {error}", "pip install 'trainctl[mlflow]'"
            ) from error
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._connect, self._entities = MlflowClient, entities
        self.uri, self.experiment = _absolute(uri), experiment
        self._known: dict[str, set[int]] = {}
        self._key = CleanNames(_NOT_ALLOWED)
        self._metric = CleanNames(_NOT_ALLOWED)

    def start(self, directory: Path, name: str, config: Mapping[str, Any]) -> None:
        note = directory / "mlflow.json"
        before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
        # A run may be resumed from another folder.
        if self.uri.startswith("sqlite:") and "database" in before and not Path(self._database).is_file():
            named = Path(before["database"])
            if _holds(named, before.get("run_id")):
                self.uri = f"sqlite:///{named}"
            else:
                log.warning("mlflow.json names %s, which does not have the run: it begins anew", named)
        with self._alone():
            self._client = self._connect(self.uri)
            experiment = self._experiment_id()
        known = self._known_run(before.get("run_id"))
        self.run_id = known or self._client.create_run(experiment, run_name=name).info.run_id
        if known is None:
            database = {"database": self._database} if self.uri.startswith("sqlite:") else {}
            files.replace(note, json.dumps({"run_id": self.run_id, **database}).encode())
        self._log_config(config)

    def metrics(self, rows: Sequence[Row]) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(self._metric(name), value, now, step)
            for step, values in rows
            for name, value in values.items()
            if step not in self._known.get(self._metric(name), ())
        ]
        for batch in _batches(metrics, _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=batch)

    def artifact(self, path: Path) -> None:
        self._client.log_artifact(self.run_id, str(path))

    def end(self, status: str) -> None:
        self._client.set_terminated(self.run_id, _STATUS[status])

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock a local database: MLflow does not keep two runs from creating its tables at once."""
        if not self.uri.startswith("sqlite:"):
            yield
            return
        database = Path(self._database)
        database.parent.mkdir(parents=True, exist_ok=True)
        with database.with_name(f".{database.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def _database(self) -> str:
        return self.uri.removeprefix("sqlite:///")

    def _known_run(self, run_id: str | None) -> str | None:
        """Continue an earlier run, and note the steps it has; None if this store has no such run."""
        if run_id is None:
            return None
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        self._known = {
            key: {metric.step for metric in self._client.get_metric_history(run_id, key)}
            for key in run.data.metrics
        }
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        place = None
        if self.uri.startswith("sqlite:"):
            # Beside the database; MLflow's own choice would be the current folder.
            place = (
                Path(self._database).parent / "mlartifacts" / re.sub(_NOT_ALLOWED, "_", self.experiment)
            ).as_uri()
        return str(self._client.create_experiment(self.experiment, artifact_location=place))

    def _log_config(self, config: Mapping[str, Any]) -> None:
        """Log settings as parameters, which cannot change; settings that a resume changed become tags."""
        there = self._client.get_run(self.run_id).data.params
        given = {self._key(key): str(value)[:_LONGEST] for key, value in config.items()}
        new = [self._entities.Param(key, value) for key, value in given.items() if key not in there]
        for batch in _batches(new, _MOST_PARAMETERS):
            self._client.log_batch(self.run_id, params=batch)
        for key, value in given.items():
            if there.get(key, value) != value:
                self._client.set_tag(self.run_id, f"changed.{key}", value)


def _absolute(uri: str) -> str:
    """The address with a relative path to a database made absolute."""
    if not uri.startswith("sqlite:///"):
        return uri
    return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).expanduser().absolute()}"


def _holds(database: Path, run_id: Any) -> bool:
    """Whether an MLflow database has the run. It is opened for reading: the run's note may be anybody's."""
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("select 1 from runs where run_uuid = ?", (run_id,)).fetchone()
    except (sqlite3.Error, ValueError):  # not there, no database, or a path that is not absolute
        return False
    return found is not None


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
