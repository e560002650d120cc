"""Connections that a config opens: another user's run gets none of this user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trainctl.config.overrides import split_override
from trainctl.config.settings import Component, Config
from trainctl.errors import UnsafeInputError
from trainctl.registry import trust
from trainctl.runs.bucket import is_url


def connections(config: Config) -> list[str]:
    """The settings of a config that open connections: a tracker's address, a bucket, data to download."""
    found = [f"tracker.{label}.{key}" for label, each in config.trackers.items() for key in _addresses(each)]
    if config.checkpoint.mirror is not None:
        found.append("checkpoint.mirror")
    if is_url(config.init_from):
        found.append("init_from")
    return [*found, *(["dataset.download"] if config.dataset.arguments.get("download") else [])]


def _addresses(tracker: Component) -> Iterator[str]:
    """The arguments that say that a tracker opens a connection, and where."""
    if tracker.arguments.get("uri"):
        yield "uri"
    elif tracker.name == "wandb" and tracker.arguments.get("mode") != "offline":
        yield "mode"


def refuse_connections(
    config: Config, directory: Path, typed: Sequence[str] = (), *, trust_plugins: bool = False
) -> None:
    """Raise UnsafeInputError where training the run in ``directory`` on opens a connection that neither this
    user's command here nor ``typed`` asks for."""
    keys = {split_override(word)[1] for word in typed}
    foreign = [key for key in connections(config) if key not in keys]
    if foreign and not trust_plugins and not _is_own(directory):
        raise UnsafeInputError(
            f"{directory}: {' and '.join(foreign)} would open a connection, and you did not train it on this"
            " machine",
            "tracker=none, dataset.download=false, checkpoint.mirror=null, or, if you trust it,"
            " --trust-plugins",
        )


def without_download(config: Config, directory: Path) -> Config:
    """The config to read the run's data with: that of another user's run is not downloaded."""
    if not config.dataset.arguments.get("download") or _is_own(directory):
        return config
    arguments = {**config.dataset.arguments, "download": False}
    return replace(config, dataset=replace(config.dataset, arguments=arguments))


def _is_own(directory: Path) -> bool:
    return trust.is_own(directory) or trust.is_own(directory.parent)
