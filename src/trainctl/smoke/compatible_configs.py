"""The configs that a component is tried with: the smallest ones that fit its task.

The ``target`` of a loss and the ``task`` of a metric decide. Components that declare nothing are tried with a
few configs until one builds: a user's own component needs no entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainctl.errors import ConfigError
from trainctl.registry import COMPONENTS, LOSSES, METRICS
from trainctl.smoke.cases import Case

_VALUES = ("dataset=synthetic", "++dataset.task=regression", "++dataset.outputs=3")
_REGRESSION = (*_VALUES, "loss=mse")
_IMAGES = ("dataset=synthetic", "++dataset.shape=[3,32,32]")
_HANDWRITING = ("dataset=synthetic", "++dataset.shape=[1,28,28]")
_PLAIN = ("optim=sgd", "model=linear")
_ITEMS = ("dataset=image_folder", "dataset.path='{images}'", "dataset.size=[8,8]", "dataset.cache=false")
_TRIED = (
    (),
    _REGRESSION,
    _HANDWRITING,
    _IMAGES,
    ("optim=sgd",),
    (*_PLAIN, *_REGRESSION),
    _ITEMS,
)
_TARGETS = {
    "class": (),
    "value": _VALUES,
    "binary": (*_VALUES, "++dataset.targets=binary"),
    "sign": (*_VALUES, "++dataset.targets=sign"),
    "labels": (*_VALUES, "++dataset.targets=labels"),
}
_SHARES = (*_VALUES, "++dataset.targets=shares")
_ENDINGS = {"bce": "Sigmoid", "nll": "{LogSoftmax:1}", "kl_div": "{LogSoftmax:1}"}
"""The last layer for losses that take probabilities or their logarithms, which no attribute declares."""


def compatible_configs(case: Case, name: str) -> Iterator[tuple[str, ...]]:
    """Overrides of the other groups for the component ``name``, the likeliest first.

    ``{images}`` in a word stands for a folder of pictures.
    """
    if case.group not in (*COMPONENTS, METRICS.group):
        yield ()
        return
    tried = [*_declared(case, name), *_TRIED]
    if case.group == "model":
        # Plain SGD halves what is saved: Adam's moments are tested with the other groups.
        tried = [("optim=sgd", *words) for words in tried if "optim=sgd" not in words]
    yield from dict.fromkeys(_without(words, case.group) for words in tried)


def target_kind(name: str) -> str | None:
    """What the loss of this name compares the model's outputs with; None if it does not declare it."""
    try:
        kind = getattr(LOSSES.load(name), "target", None)
    except ConfigError:
        return None
    return kind if isinstance(kind, str) else None


def _declared(case: Case, name: str) -> list[tuple[str, ...]]:
    if case.group == METRICS.group:
        return [_REGRESSION] if getattr(METRICS.load(name), "task", "") == "regression" else []
    if case.group != LOSSES.group:
        return []
    words = _SHARES if name == "kl_div" else _TARGETS.get(str(target_kind(name)))
    if words is None:
        return []
    outputs = 3 if words else 10

    def ending(last: str) -> tuple[str, ...]:
        return ("model=sequential", f"++model.layers=[Flatten,{{Linear:{outputs}}},{last}]", *words)

    # A user's own loss may take probabilities only.
    return [ending(_ENDINGS[name]) if name in _ENDINGS else words, ending("Sigmoid")]


def _without(words: Sequence[str], group: str) -> tuple[str, ...]:
    """The words without those for the group that is tested."""
    return tuple(word for word in words if not word.lstrip("+").startswith((f"{group}=", f"{group}.")))
