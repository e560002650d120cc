"""How processes find each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from trainctl.distributed import group
from trainctl.distributed.context import World
from trainctl.errors import RankError


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store of a launcher that outlives the processes it starts."""
    store = dist.HashStore()
    monkeypatch.setattr(group, "rendezvous", lambda url, rank, size, timeout: iter([(store, rank, size)]))
    return store


def test_each_start_has_keys_of_its_own(launcher: Any) -> None:
    for start in range(3):
        with ThreadPoolExecutor(3) as threads:
            worlds = [World(rank, 3, rank, 3) for rank in (2, 1, 0)]
            stores = list(threads.map(group._own_keys, worlds, [10.0] * 3))
        assert not stores[0].check(["address"])
        stores[0].set("address", f"of start {start}")
        assert [store.get("address").decode() for store in stores] == [f"of start {start}"] * 3


def test_a_process_that_does_not_come_is_not_waited_for_longer(launcher: Any) -> None:
    """The others' error is one of torch, so that the run ends with exit 8."""
    with pytest.raises(dist.DistError), ThreadPoolExecutor(1) as threads:
        threads.submit(group._own_keys, World(0, 3, 0, 3), 0.3).result()
    launcher.set("start", "an earlier one")
    with pytest.raises(RankError, match="rank 0 has not come"), group.joined(World(1, 3, 1, 3), 0.3):
        pass
