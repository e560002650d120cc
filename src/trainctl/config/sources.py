"""Where Hydra finds options: the user's ``./conf`` before trainctl's own."""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from trainctl.paths import user_conf
from trainctl.registry import COMPONENTS

BLANK = "_blank_"
"""An empty option of every group: composing it shows what the other files alone say of the group."""


class UserConfSource(FileConfigSource):
    """A user's ``./conf``: options and ``local.yaml`` count, a ``config.yaml`` in it is somebody else's."""

    @staticmethod
    def scheme() -> str:
        return "trainctl-user"

    def is_config(self, config_path: str) -> bool:
        return Path(config_path).stem != "config" and super().is_config(config_path)


class TrainctlSearchPath(SearchPathPlugin):
    """Puts a user's ``./conf`` before trainctl's own.

    Registered here and not discovered: other Hydra programs of the environment never see it.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = user_conf()
        if folder is not None and any(element.provider == "main" for element in search_path.get_path()):
            search_path.prepend(
                "user", f"{UserConfSource.scheme()}://{folder}", SearchPathQuery(provider="main")
            )


def register_search_path() -> None:
    """Make Hydra look into the user's ``./conf`` first. Safe to call again."""
    for plugin in (UserConfSource, TrainctlSearchPath):
        if plugin not in Plugins.instance().discover(plugin.__mro__[1]):
            Plugins.instance().register(plugin)
    for group in COMPONENTS:
        ConfigStore.instance().store(name=BLANK, node={}, group=group)
