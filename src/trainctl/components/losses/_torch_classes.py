"""Losses of torch.nn that take (outputs, targets) and have no parameters of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from trainctl.registry import NonNegative, Positive
from trainctl.registry.torch_classes import TorchClass, TorchClasses

_MODULE = "nn.modules.loss"


def _make(loss: type, member: TorchClass) -> Callable[..., Any]:
    return type(loss.__name__, (loss,), {"target": member.note, "__module__": loss.__module__})


def _member(name: str, target: str, summary: str) -> TorchClass:
    return TorchClass(_MODULE, name, summary, target)


# The last word says what the targets are: build.py explains a misfit from it.
TORCH_CLASSES = TorchClasses(
    members={
        "hinge_embedding": _member(
            "HingeEmbeddingLoss", "sign", "Similar (1) or dissimilar (-1), from distances"
        ),
        "huber": _member(
            "HuberLoss", "value", "Squared error for small differences, absolute for large ones"
        ),
        "l1": _member("L1Loss", "value", "Mean absolute error"),
        "multi_label_margin": _member(
            "MultiLabelMarginLoss", "labels", "Margin for several classes a sample"
        ),
        "multi_label_soft_margin": _member(
            "MultiLabelSoftMarginLoss",
            "binary",
            "One logistic loss a class, averaged: several classes a sample",
        ),
        "multi_margin": _member("MultiMarginLoss", "class", "Multi-class hinge loss"),
        "poisson_nll": _member("PoissonNLLLoss", "value", "Negative log-likelihood of counts"),
        "smooth_l1": _member("SmoothL1Loss", "value", "Huber's loss divided by beta"),
        "soft_margin": _member("SoftMarginLoss", "sign", "Logistic loss for targets 1 and -1"),
    },
    hidden=("self", "size_average", "reduce", "reduction", "weight"),
    types={
        "margin": NonNegative,
        "beta": NonNegative,
        "delta": Positive,
        "eps": Positive,
        "p": Literal[1, 2],
    },
    make=_make,
    refused={
        "adaptive_log_softmax_with_loss": "it has parameters of its own, which no optimizer here would train",
        "linear_cross_entropy": "it has parameters of its own, which no optimizer here would train",
        "cosine_embedding": "it compares two inputs; a loss gets the model's outputs and the targets",
        "ctc": "it needs the lengths of sequences beside outputs and targets",
        "gaussian_nll": "it needs a variance beside outputs and targets",
        "margin_ranking": "it compares two inputs; a loss gets the model's outputs and the targets",
        "triplet_margin": "it compares three inputs; a loss gets the model's outputs and the targets",
        "triplet_margin_with_distance": "it compares three inputs; a loss gets one and the targets",
    },
)
