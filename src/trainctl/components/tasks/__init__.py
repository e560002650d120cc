"""The built-in tasks, one file each; ``Task`` is the base of one's own."""

from trainctl.components.tasks._base import Task

__all__ = ["Task"]
