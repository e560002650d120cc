"""Operations on the CPU recorded and launched again, in the place of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Operations on the CPU, recorded and repeated as a CUDA graph does it.

    Recording has to do them, so that afterwards everything is put back that they wrote into.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = self.eager = 0

    def eagerly(self, work: Callable[[], Tensor]) -> Tensor:
        self.eager += 1
        return work()

    def record(self, work: Callable[[], Tensor]) -> Tensor:
        random_state = torch.get_rng_state()
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        try:
            with self:
                return work()
        finally:
            torch.set_rng_state(random_state)
            with torch.no_grad():
                for tensor, before in self._before.values():
                    tensor.copy_(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        # Running statistics are written by operators that do not say so.
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor) and id(given) not in self._made and id(given) not in self._before:
                self._before[id(given)] = given, given.detach().clone()
        result = func(*args, **kwargs)
        self._made.update(map(id, tree_leaves(result)))
        self.operations.append((func, args, kwargs, result))
        return result

    def replay(self) -> None:
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, result in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def wait(self) -> None:
        pass
