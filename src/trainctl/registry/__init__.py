"""Names to classes: the registries, the signatures that are their schema, and the constraints of arguments.

The names below are public: a component of one's own registers with a registry and annotates its arguments
with the constraints. They import no torch.

Imported by every room above ``runs``.
"""

from trainctl.registry.constraints import (
    Count,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    Probability,
    Seed,
)
from trainctl.registry.registry import (
    COMPONENTS,
    DATASETS,
    LOADERS,
    LOOPS,
    LOSSES,
    METRICS,
    MODELS,
    OPTIMIZERS,
    SCHEDULERS,
    TASKS,
    TRACKERS,
    Registry,
)
from trainctl.registry.signature import REQUIRED, Parameter

__all__ = [
    "COMPONENTS",
    "DATASETS",
    "LOADERS",
    "LOOPS",
    "LOSSES",
    "METRICS",
    "MODELS",
    "OPTIMIZERS",
    "REQUIRED",
    "SCHEDULERS",
    "TASKS",
    "TRACKERS",
    "Count",
    "Fraction",
    "NonNegative",
    "NonNegativeInt",
    "Parameter",
    "Positive",
    "Probability",
    "Registry",
    "Seed",
]
