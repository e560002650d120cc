"""The configs that a component is tried with: the smallest ones that fit its task.

The ``target`` of a loss and the ``task`` of a metric decide. Components that declare nothing are tried with a
few configs until one builds: a user's own component needs no entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainctl.components.tasks._base import task_named
from trainctl.errors import ConfigError
from trainctl.registry import COMPONENTS, LOSSES, METRICS, TASKS
from trainctl.smoke.cases import Case

_IMAGES = ("dataset=synthetic", "++dataset.shape=[3,32,32]")
_HANDWRITING = ("dataset=synthetic", "++dataset.shape=[1,28,28]")
_PLAIN = ("optim=sgd", "model=linear")
_ITEMS = ("dataset=image_folder", "dataset.path='{images}'", "dataset.size=[8,8]", "dataset.cache=false")
_TARGETS = {name: (f"++dataset.targets={name}",) for name in ("binary", "sign", "labels", "shares")}
"""What the ``synthetic`` dataset makes for a kind of loss, beside what its task needs."""
_ENDINGS = {"bce": "Sigmoid", "nll": "{LogSoftmax:1}", "kl_div": "{LogSoftmax:1}"}
"""The last layer for losses that take probabilities or their logarithms, which no attribute declares."""


def compatible_configs(case: Case, name: str) -> Iterator[tuple[str, ...]]:
    """Overrides of the other groups for the component ``name``, the likeliest first.

    ``{images}`` in a word stands for a folder of pictures.
    """
    if case.group not in (*COMPONENTS, METRICS.group):
        yield ()
        return
    by_task = [_of_task(task) for task in TASKS.names()]
    plain = [(*_PLAIN, *words) for words in by_task if words]
    tried = [*_declared(case, name), *by_task, _HANDWRITING, _IMAGES, ("optim=sgd",), *plain, _ITEMS]
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


def _of_task(name: str) -> tuple[str, ...]:
    """Data of a task and a loss for it; nothing for the task of the default config."""
    task = task_named(name)
    return (*task.example, f"loss={task.loss}") if task.example else ()


def _declared(case: Case, name: str) -> list[tuple[str, ...]]:
    if case.group == METRICS.group:
        task = getattr(METRICS.load(name), "task", None)
        return [] if task is None else [_of_task(task)]
    if case.group != LOSSES.group:
        return []
    kind = "value" if name == "kl_div" else target_kind(name)
    fitting = [task for task in map(task_named, TASKS.names()) if kind in task.loss_targets]
    if not fitting:
        return []
    words = (*fitting[0].example, *_TARGETS.get("shares" if name == "kl_div" else str(kind), ()))
    outputs = 3 if words else 10

    def ending(last: str) -> tuple[str, ...]:
        return ("model=sequential", f"++model.layers=[Flatten,{{Linear:{outputs}}},{last}]", *words)

    # A user's own loss may take probabilities only.
    return [ending(_ENDINGS[name]) if name in _ENDINGS else words, ending("Sigmoid")]


def _without(words: Sequence[str], group: str) -> tuple[str, ...]:
    """The words without those for the group that is tested."""
    return tuple(word for word in words if not word.lstrip("+").startswith((f"{group}=", f"{group}.")))
