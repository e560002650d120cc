"""Losses of torch.nn that take (outputs, targets) and have no parameters of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from trainctl.registry import NonNegative, Positive
from trainctl.registry.torch_classes import TorchClass, TorchClasses

_MODULE = "nn.modules.loss"
_PARAMETERS = "it has parameters of its own, which the optimizer would not train"
_INPUTS = "it compares {} inputs; a loss gets the model's outputs and the targets"


# What an output is: see trainctl.data.readout. Those that are as the targets are not here.
_OUTPUTS: Mapping[str, Any] = {
    **dict.fromkeys(("HuberLoss", "L1Loss", "MSELoss", "SmoothL1Loss"), "value"),
    "BCEWithLogitsLoss": "logit",
    "HingeEmbeddingLoss": "score",
    "KLDivLoss": property(lambda loss: "" if loss.log_target else "log"),
    "MultiLabelMarginLoss": "labels",
    "MultiLabelSoftMarginLoss": "logit",
    "PoissonNLLLoss": property(lambda loss: "log" if loss.log_input else ""),
    "SoftMarginLoss": "sign",
}


def read_out_by_torch(loss: Any) -> str:
    """What an output is to be read as, by the class of torch that a loss of one's own is made from: "" if it
    is no logit and no logarithm, or nobody knows."""
    for base in type(loss).__mro__:
        kind = _OUTPUTS.get(base.__name__, "") if base.__module__ == f"torch.{_MODULE}" else ""
        kind = kind.__get__(loss) if isinstance(kind, property) else kind
        if kind not in ("", "value"):
            return str(kind)
    return ""


def _make(loss: type, member: TorchClass) -> Callable[..., Any]:
    declared = {"target": member.note, "output": _OUTPUTS.get(loss.__name__, "")}
    return type(loss.__name__, (loss,), {**declared, "__module__": loss.__module__})


def _member(name: str, target: str, summary: str) -> TorchClass:
    return TorchClass(_MODULE, name, summary, target)


# A member's target names what the targets are; build explains a misfit from it.
TORCH_CLASSES = TorchClasses(
    members={
        "bce": _member(
            "BCELoss", "binary", "Binary cross-entropy of probabilities; bce_with_logits is more stable"
        ),
        "hinge_embedding": _member(
            "HingeEmbeddingLoss", "sign", "Similar (1) or dissimilar (-1), from distances"
        ),
        "huber": _member(
            "HuberLoss", "value", "Squared error for small differences, absolute for large ones"
        ),
        "l1": _member("L1Loss", "value", "Mean absolute error"),
        "mse": _member("MSELoss", "value", "Mean squared error"),
        "multi_label_margin": _member(
            "MultiLabelMarginLoss", "labels", "Margin for several classes a sample"
        ),
        "multi_label_soft_margin": _member(
            "MultiLabelSoftMarginLoss",
            "binary",
            "One logistic loss a class, averaged: several classes a sample",
        ),
        "multi_margin": _member("MultiMarginLoss", "class", "Multi-class hinge loss"),
        "poisson_nll": _member("PoissonNLLLoss", "counts", "Negative log-likelihood of counts"),
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
        "adaptive_log_softmax_with_loss": _PARAMETERS,
        "linear_cross_entropy": _PARAMETERS,
        "cosine_embedding": _INPUTS.format("two"),
        "ctc": "it needs the lengths of sequences besides outputs and targets",
        "gaussian_nll": "it needs a variance besides outputs and targets",
        "margin_ranking": _INPUTS.format("two"),
        "triplet_margin": _INPUTS.format("three"),
        "triplet_margin_with_distance": _INPUTS.format("three"),
    },
)
