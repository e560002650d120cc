"""Functions that a module or an optimizer calls, and that can be removed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Hook = Callable[[Any, Any, Any], Any]


class Hooks:
    """Hooks in the order in which they were added; iterating is safe while a hook adds or removes one."""

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
    """Removes a hook; a second ``remove`` does nothing."""

    def __init__(self, hooks: dict[int, Hook], number: int) -> None:
        self._hooks, self._number = hooks, number

    def remove(self) -> None:
        self._hooks.pop(self._number, None)
