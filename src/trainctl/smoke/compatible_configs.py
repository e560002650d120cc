"""The configs that a component is tried with: the smallest ones that fit its task.

The ``target`` of a loss and the ``task`` of a metric decide. Components that declare nothing are tried with
several configs until one builds, a user's own models with the user's own datasets, too: a component of
one's own needs no entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainctl.components.tasks._base import Task, task_named
from trainctl.errors import ConfigError
from trainctl.registry import COMPONENTS, DATASETS, LOSSES, METRICS, MODELS, TASKS
from trainctl.smoke.cases import Case

_IMAGES = ("dataset=synthetic", "++dataset.shape=[3,32,32]")
_HANDWRITING = ("dataset=synthetic", "++dataset.shape=[1,28,28]")
_ITEMS = ("dataset=image_folder", "dataset.path='{images}'", "dataset.size=[8,8]", "dataset.cache=false")
_SYNTHETIC_TARGETS = ("binary", "sign", "labels", "shares")
"""The kinds of targets that ``synthetic`` makes on demand."""
_LAST_LAYERS = {"bce": "Sigmoid", "nll": "{LogSoftmax:1}", "kl_div": "{LogSoftmax:1}"}
"""For losses of probabilities or their logarithms, which no attribute declares."""


def compatible_configs(case: Case, name: str) -> Iterator[tuple[str, ...]]:
    """Overrides of the other groups for the component ``name``, the likeliest first.

    ``{images}`` in a word stands for a folder of pictures.
    """
    if case.group not in (*COMPONENTS, METRICS.group):
        yield _of_task(task_named(name)) if case.group == TASKS.group else ()
        return
    tasks = [task_named(task) for task in TASKS.names()]
    # That of the default config first, then the least peculiar one.
    tasks.sort(key=lambda task: (bool(task.example), -len(task.loss_targets)))
    by_task = [_of_task(task) for task in tasks]
    plain = [("optim=sgd", "model=linear", *words) for words in by_task if words]
    tried = [*_declared(case, name), *by_task, _HANDWRITING, _IMAGES, ("optim=sgd",), *plain, _ITEMS]
    counterparts = {MODELS.group: DATASETS, DATASETS.group: MODELS}.get(case.group)
    if counterparts is not None:
        tried += [(f"{counterparts.group}.name={own}",) for own in counterparts.foreign()]
    if case.group == MODELS.group:
        # Plain SGD halves the checkpoints; Adam's moments are tested with the other groups.
        tried = [("optim=sgd", *words) for words in tried if "optim=sgd" not in words]
    yield from dict.fromkeys(_without(words, case.group) for words in tried)


def target_kind(name: str) -> str | None:
    """The kind of targets of the loss ``name``; None if it does not declare one."""
    try:
        kind = getattr(LOSSES.load(name), "target", None)
    except ConfigError:
        return None
    return kind if isinstance(kind, str) else None


def _of_task(task: Task) -> tuple[str, ...]:
    """Data of a task and a loss for it; nothing for the task of the default config."""
    return (*task.example, f"loss={task.loss}") if task.example else ()


def _declared(case: Case, name: str) -> list[tuple[str, ...]]:
    if case.group == METRICS.group:
        task = getattr(METRICS.load(name), "task", None)
        return [] if task is None else [_of_task(task_named(task))]
    if case.group != LOSSES.group:
        return []
    kind, made = target_kind(name), target_kind(name)
    if name == "kl_div":
        kind, made = "value", "shares"
    fitting = [task for task in map(task_named, TASKS.names()) if kind in task.loss_targets]
    if not fitting:
        return []
    fitting.sort(key=lambda task: -len(task.loss_targets))  # the least peculiar one first
    words = fitting[0].example
    if made in _SYNTHETIC_TARGETS:
        words = (*words, f"++dataset.targets={made}")
    layers = f"++model.layers=[Flatten,{{Linear:{3 if words else 10}}},{_LAST_LAYERS.get(name, 'Sigmoid')}]"
    ending = ("model=sequential", layers, *words)
    # A user's own loss may take probabilities only.
    return [ending] if name in _LAST_LAYERS else [tuple(words), ending]


def _without(words: Sequence[str], group: str) -> tuple[str, ...]:
    """The words without those for the group that is tested."""
    return tuple(word for word in words if not word.lstrip("+").startswith((f"{group}=", f"{group}.")))
