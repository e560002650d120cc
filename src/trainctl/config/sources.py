"""Where Hydra finds options: the user's ``./conf`` before trainctl's own."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from trainctl.config.hydra_internals import FileConfigSource
from trainctl.paths import user_conf
from trainctl.registry import COMPONENTS

BLANK = "_blank_"


class UserConfSource(FileConfigSource):
    """A user's ``./conf``: options and ``local.yaml`` count, a ``config.yaml`` in it is somebody else's."""

    @staticmethod
    def scheme() -> str:
        return "trainctl-user"

    def is_config(self, config_path: str) -> bool:
        return Path(config_path).stem != "config" and super().is_config(config_path)


class BlankSource(ConfigSource):
    """An empty option ``_blank_`` in every group, to compose what the other files alone say of a group."""

    @staticmethod
    def scheme() -> str:
        return "trainctl-blank"

    def load_config(self, config_path: str) -> ConfigResult:
        header: dict[str, str | None] = {"package": None}
        return ConfigResult(self.provider, config_path, OmegaConf.create(), header)

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path in COMPONENTS

    def is_config(self, config_path: str) -> bool:
        return Path(config_path).stem == BLANK

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


class TrainctlSearchPath(SearchPathPlugin):
    """A user's ``./conf`` is searched before trainctl's own. Registered here and not discovered, so that
    other Hydra programs of the environment never see it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if "main" not in [element.provider for element in search_path.get_path()]:
            return
        folder = user_conf()
        if folder is not None:
            search_path.prepend(
                "user", f"{UserConfSource.scheme()}://{folder}", SearchPathQuery(provider="main")
            )
        search_path.append("trainctl-blank", f"{BlankSource.scheme()}://")


def register_search_path() -> None:
    """Make Hydra look into the user's ``./conf`` first. Safe to call again."""
    for plugin in (UserConfSource, BlankSource, TrainctlSearchPath):
        if plugin not in Plugins.instance().discover(plugin.__mro__[1]):
            Plugins.instance().register(plugin)
