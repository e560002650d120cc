"""torch's abstractions in plain Python, for readers: modules, losses, optimizers, data loading.

Tensors and automatic differentiation are torch's. Each class behaves like torch's class of the same name and
meets ``trainctl.registry.protocols``: the standard loop trains these classes and torch's own, in any mix.
"""

from __future__ import annotations

from trainctl.lessons.scratch.data import DataLoader, Dataset, Sampler, collate
from trainctl.lessons.scratch.hooks import Hooks, RemovableHandle
from trainctl.lessons.scratch.layers import Dropout, Flatten, Linear, ReLU
from trainctl.lessons.scratch.losses import CrossEntropy, MeanSquaredError
from trainctl.lessons.scratch.module import Module, ModuleList, Sequential
from trainctl.lessons.scratch.optim import SGD, Adam, Optimizer

__all__ = [
    "SGD",
    "Adam",
    "CrossEntropy",
    "DataLoader",
    "Dataset",
    "Dropout",
    "Flatten",
    "Hooks",
    "Linear",
    "MeanSquaredError",
    "Module",
    "ModuleList",
    "Optimizer",
    "ReLU",
    "RemovableHandle",
    "Sampler",
    "Sequential",
    "collate",
]
