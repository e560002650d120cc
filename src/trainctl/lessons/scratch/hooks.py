"""Functions that others hang onto a module or an optimizer, and can take off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Hook = Callable[[Any, Any, Any], Any]


class Hooks:
    """Hooks in the order in which they were added; iterating gives those of now, whatever a hook changes."""

    def __init__(self) -> None:
        self._hooks: dict[int, Hook] = {}
        self._next = 0

    def add(self, hook: Hook) -> RemovableHandle:
        number, self._next = self._next, self._next + 1
        self._hooks[number] = hook
        return RemovableHandle(self._hooks, number)

    def __iter__(self) -> Iterator[Hook]:
        return iter(list(self._hooks.values()))


class RemovableHandle:
    """What adding a hook returns: ``remove`` takes that hook off, a second time does nothing."""

    def __init__(self, hooks: dict[int, Hook], number: int) -> None:
        self._hooks, self._number = hooks, number

    def remove(self) -> None:
        self._hooks.pop(self._number, None)
