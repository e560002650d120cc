"""One process trains one run."""

from __future__ import annotations

import pytest

from trainctl.distributed.context import require_one_process
from trainctl.errors import ConfigError


@pytest.mark.parametrize("world", [None, "1"])
def test_one_process_is_fine(world: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if world:
        monkeypatch.setenv("WORLD_SIZE", world)
    require_one_process()


@pytest.mark.parametrize("world", ["2", "64"])
def test_several_processes_are_refused(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match=f"WORLD_SIZE={world}"):
        require_one_process()
