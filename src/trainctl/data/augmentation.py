"""Training images changed at random: ``dataset.augment``, a list of torchvision.transforms.v2 classes.

Transforms get raw images on the device. (seed, epoch, sample) seed the random numbers of an image, so resumed
runs and any number of workers see the same images; the run's own random numbers (dropout) are not used.

Where targets are masks, what moves the pixels of an image moves those of its mask; pixels that come from
outside of the image are then ignored, and each pixel of a mask is that of the nearest one.

The common transforms are written here for whole batches. Every other one is torchvision's: on the whole
batch if it draws nothing, else image by image, which costs Python and, on a GPU, kernels for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from trainctl.data.batch_transforms import RandomCrop, RandomHorizontalFlip, RandomVerticalFlip
from trainctl.data.sampler import derived_seed
from trainctl.data.types import IGNORED, AnySplit, Split, StreamSplit, is_sampled
from trainctl.errors import ConfigError, Problem, did_you_mean
from trainctl.registry.constraints import describe, show
from trainctl.registry.signature import from_object

_TRIALS = 8


_OWN: dict[str, Callable[..., Any]] = {
    own.__name__: own for own in (RandomHorizontalFlip, RandomVerticalFlip, RandomCrop)
}


class _Whole:
    """A transform of torchvision that draws nothing, for the whole batch."""

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform

    def __call__(self, inputs: Tensor, seeds: Sequence[int]) -> Tensor:
        output: Tensor = self.transform(inputs).as_subclass(Tensor)
        return output

    def both(self, inputs: Tensor, masks: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        image, mask = self.transform(*_image_and_mask(inputs, masks.unsqueeze(1)))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).squeeze(1)


class _EachImage(_Whole):
    """A transform of torchvision, image by image, torch's random numbers seeded for each."""

    def __call__(self, inputs: Tensor, seeds: Sequence[int]) -> Tensor:
        outputs = torch.empty_like(inputs)
        with _own_randomness(inputs.device) as reseed:
            for number, seed in enumerate(seeds):
                reseed(seed)
                image = self.transform(inputs[number])
                if image.shape != inputs.shape[1:]:
                    raise _reshaped(type(self.transform).__name__, inputs.shape[1:], image.shape)
                outputs[number] = image.as_subclass(Tensor)
        return outputs

    def both(self, inputs: Tensor, masks: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        outputs, changed = torch.empty_like(inputs), torch.empty_like(masks)
        with _own_randomness(inputs.device) as reseed:
            for number, seed in enumerate(seeds):
                reseed(seed)
                image, mask = self.transform(*_image_and_mask(inputs[number], masks[number][None]))
                if image.shape != inputs.shape[1:]:
                    raise _reshaped(type(self.transform).__name__, inputs.shape[1:], image.shape)
                outputs[number], changed[number] = image.as_subclass(Tensor), mask.as_subclass(Tensor)[0]
        return outputs, changed


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[Callable[[int], object]]:
    """Torch's random numbers for the block alone; yields the function that seeds them."""
    gpus = [device] if device.type == "cuda" else []

    def reseed(seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed(seed)

    with torch.random.fork_rng(devices=gpus):
        yield reseed


class Augment:
    """The transforms of a list, one after the other.

    Args:
        stages: made by :func:`make_augment`.
        seed: the run's.
        samples: how many the training split has.
        masks: whether targets are masks of the images, and change with them.
    """

    def __init__(self, stages: Sequence[Any], seed: int, samples: int, *, masks: bool = False) -> None:
        self.stages, self.seed, self.samples, self.masks = tuple(stages), seed, samples, masks
        self._epoch: int | None = None
        self._numbers: dict[int, Tensor] = {}

    def __call__(self, inputs: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Augment raw images.

        Args:
            inputs: (N, C, H, W).
            index: (N,), the samples' numbers in the training split, on the same device.
            epoch: epochs completed.

        Raises ConfigError where their targets are masks: see :meth:`both`.
        """
        if self.masks:
            raise ConfigError(
                "dataset.augment: this loader changes images, and not their masks",
                "use loader=auto; a loader of one's own calls augment.both",
            )
        for stage, drawn in self._drawn(inputs, index, epoch):
            inputs = stage(inputs, drawn)
        return inputs

    def both(self, inputs: Tensor, targets: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Augment raw images, and their ``targets`` where those are masks, (N, H, W) uint8."""
        if not self.masks:
            return self(inputs, index, epoch), targets
        for stage, drawn in self._drawn(inputs, index, epoch):
            if isinstance(stage, _Whole):
                inputs, targets = stage.both(inputs, targets, drawn)
            else:
                inputs = stage(inputs, drawn)
                targets = stage.for_masks()(targets.unsqueeze(1), drawn).squeeze(1)
        return inputs, targets

    def _drawn(self, inputs: Tensor, index: Tensor, epoch: int) -> Iterator[tuple[Any, Any]]:
        """Each stage with the numbers, or the seeds, of these samples."""
        if epoch != self._epoch:
            self._draw(epoch, inputs.device)
        for number, stage in enumerate(self.stages):
            if number in self._numbers:
                yield stage, self._numbers[number].index_select(1, index)
            else:
                each_image = index.tolist() if isinstance(stage, _EachImage) else []
                yield stage, [derived_seed("augment", self.seed, epoch, number, n) for n in each_image]

    def _draw(self, epoch: int, device: torch.device) -> None:
        """The epoch's numbers for all samples at once: a batch then costs one gather instead of its draws."""
        for number, stage in enumerate(self.stages):
            if draws := getattr(stage, "draws", 0):
                seed = derived_seed("augment", self.seed, epoch, number)
                # On the CPU, so that they are the same for every device.
                generator = torch.Generator().manual_seed(seed)
                self._numbers[number] = torch.rand(draws, self.samples, generator=generator).to(device)
        self._epoch = epoch


def make_augment(
    entries: Sequence[str | Mapping[str, Any]], split: AnySplit, seed: int, *, masks: bool = False
) -> Augment | None:
    """The transforms of ``dataset.augment``, tried on a training sample; None for an empty list.

    ``masks``: the targets are masks of the images.

    Raises ConfigError for an unknown transform or argument, naming the nearest, and for a transform that
    fails on these images, or on their masks, or changes their shape or type.
    """
    if not entries:
        return None
    transforms = _make_all(entries, "dataset.augment", masks=masks)
    if isinstance(split, StreamSplit) or is_sampled(split):
        raise ConfigError(
            "dataset.augment: draws numbers for all samples of an epoch, which are unknown or too many",
            "transform samples in the dataset's own code",
        )
    if isinstance(split, Split):
        raw = split.inputs[0]
    else:
        from trainctl.data.worker_process import kept_random_state, load_sample  # only here is it needed

        with kept_random_state():
            raw = load_sample(split.load, split.items[0])
    if not isinstance(raw, Tensor) or raw.dim() != 3:
        given = f"shape {tuple(raw.shape)}" if isinstance(raw, Tensor) else "several inputs"
        raise ConfigError(
            f"dataset.augment: images are (channels, height, width), samples have {given}",
            "use dataset.augment=[]",
        )
    stages = [_tried(transform, raw) for transform in transforms]
    if masks:
        for transform, stage in zip(transforms, stages, strict=True):
            _try_with_mask(type(transform).__name__, stage, raw, split.targets[0])
    return Augment(stages, seed, len(split), masks=masks)


def _make_all(entries: Sequence[Any], where: str, *, nested: bool = False, masks: bool = False) -> list[Any]:
    """Make every transform of a list; all problems are reported at once.

    Args:
        nested: they are arguments of a transform, which works image by image: all are torchvision's.
    """
    made: list[Any] = []
    problems: list[Problem] = []
    for entry in entries:
        try:
            name, arguments = _parsed(entry, where)
            made.append(_make(name, arguments, f"{where}.{name}", nested, masks))
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return made


def _parsed(entry: Any, where: str) -> tuple[str, dict[str, Any]]:
    """The name of a transform and its arguments."""
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        name, arguments = next(iter(entry.items()))
        if isinstance(arguments or {}, Mapping):
            return str(name), dict(arguments or {})
    raise ConfigError(f"{where}: {show(entry)} is not a transform", "write NAME or {NAME: {ARGUMENT: VALUE}}")


def _make(name: str, arguments: dict[str, Any], where: str, nested: bool, masks: bool) -> Any:
    if name in ("MixUp", "CutMix"):
        key = f"dataset.{name.lower()}"
        raise ConfigError(f"{where}: mixes the samples of a batch, with their targets", f"use {key}=0.2")
    # Padding that repeats pixels is torchvision's.
    if name in _OWN and not nested and arguments.get("padding_mode", "constant") == "constant":
        constructor = _OWN[name]
        _check_arguments(constructor, arguments, where, name, types=True)
    else:
        constructor = _torchvision(name, where)
        _check_arguments(constructor, arguments, where, name, types=False)
        if isinstance(inner := arguments.get("transforms"), list):
            arguments["transforms"] = _make_all(inner, where, nested=True, masks=masks)
        if masks:
            _for_masks(constructor, arguments, where, name)
        if isinstance(arguments.get("interpolation"), str):
            arguments["interpolation"] = _interpolation(arguments["interpolation"], where)
    try:
        return constructor(**arguments)
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"{where}: {str(error).partition(chr(10))[0]}") from error


def _torchvision(name: str, where: str) -> Callable[..., Any]:
    """The class of torchvision.transforms.v2; its import takes seconds, so it waits until one is named."""
    from torchvision.transforms import v2

    known = {
        each: kind
        for each, kind in vars(v2).items()
        if isinstance(kind, type) and issubclass(kind, v2.Transform) and kind is not v2.Transform
    }
    if name not in known:
        raise ConfigError(
            f"{where}: torchvision.transforms.v2 has no such transform",
            f"{did_you_mean(name, known)}there are: {', '.join(sorted(known))}",
        )
    chosen: Callable[..., Any] = known[name]
    return chosen


def _for_masks(constructor: Callable[..., Any], arguments: dict[str, Any], where: str, name: str) -> None:
    """Have pixels from outside of an image ignored. Raises ConfigError for what images alone can bear."""
    from torchvision.tv_tensors import Mask

    if name == "RandomErasing":
        raise ConfigError(f"{where}: erases in images, and not in their masks", "leave it out")
    fills = [each for each in from_object(constructor).parameters if each.name == "fill"]
    for parameter in fills:
        arguments["fill"] = {Mask: IGNORED, "others": arguments.get("fill", parameter.default)}


def _image_and_mask(inputs: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """As torchvision tells them apart; its import waits until one of its transforms is used."""
    from torchvision.tv_tensors import Image, Mask

    return Image(inputs), Mask(masks)


def _interpolation(name: str, where: str) -> Any:
    from torchvision.transforms import InterpolationMode

    names = [mode.value for mode in InterpolationMode]
    if name not in names:
        raise ConfigError(f"{where}.interpolation={name}: must be one of {', '.join(names)}")
    return InterpolationMode(name)


def _check_arguments(
    constructor: Callable[..., Any], arguments: Mapping[str, Any], where: str, name: str, *, types: bool
) -> None:
    """Check names and, with ``types``, types and ranges, which only trainctl's own transforms annotate."""
    parameters = {parameter.name: parameter for parameter in from_object(constructor).parameters}
    takes = f"{name} takes{': ' + ', '.join(parameters) if parameters else ' no arguments'}"
    problems = []
    for key, value in arguments.items():
        given = f"{where}.{key}={show(value)}"
        if key not in parameters:
            problems.append(Problem(f"{given}: no such argument", did_you_mean(key, parameters) + takes))
        elif types:
            annotation = parameters[key].annotation
            try:
                TypeAdapter(annotation).validate_python(value, strict=True)
            except ValidationError:
                problems.append(Problem(f"{given}: must be {describe(annotation)}"))
    for key, parameter in parameters.items():
        if parameter.required and key not in arguments:
            problems.append(Problem(f"{where}.{key} is missing", f"{name} needs it"))
    if problems:
        raise ConfigError(problems)


def _tried(transform: Any, image: Tensor) -> Any:
    """The transform as a stage, after trying it on an image of the data."""
    name = type(transform).__name__
    if type(transform) is _OWN.get(name):
        _apply(name, image, lambda: transform(image.unsqueeze(0), torch.zeros(2, 1))[0])
        return transform
    draws = False
    with _own_randomness(image.device) as reseed:
        for seed in range(_TRIALS):
            reseed(seed)
            before = torch.get_rng_state()
            _apply(name, image, lambda: transform(image))
            draws = draws or not torch.equal(before, torch.get_rng_state())
        if draws:
            return _EachImage(transform)
        pair = torch.stack([image, image.flip(-1)])
        both = _apply(name, pair, lambda: transform(pair))
        same = torch.equal(both, torch.stack([transform(each) for each in pair]))
    return _Whole(transform) if same else _EachImage(transform)


def _apply(name: str, inputs: Tensor, transform: Callable[[], Any]) -> Tensor:
    """The output of a transform. Raises ConfigError where it fails, or changes shape or type."""
    try:
        output = transform()
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"dataset.augment.{name}: fails on an image of this dataset: {reason}") from error
    if not isinstance(output, Tensor):
        raise ConfigError(f"dataset.augment.{name}: must return an image, returns {type(output).__name__}")
    if output.shape != inputs.shape:
        raise _reshaped(name, inputs.shape, output.shape)
    if output.dtype != inputs.dtype:
        raise ConfigError(
            f"dataset.augment.{name}: must keep the type, turns {inputs.dtype} into {output.dtype}",
            "the dataset's own transform comes after it and takes raw images",
        )
    return output


def _try_with_mask(name: str, stage: Any, image: Tensor, mask: Tensor) -> None:
    """Raise ConfigError for a transform that cannot change an image and its mask alike."""
    if not isinstance(stage, _Whole):
        return
    for seed in range(_TRIALS):
        try:
            _, changed = stage.both(image.unsqueeze(0), mask.unsqueeze(0), [seed])
        except ConfigError:
            raise
        except Exception as error:  # torchvision raises errors of many kinds
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"dataset.augment.{name}: fails on a mask: {reason}", "leave it out") from error
        if changed.dtype != mask.dtype or changed.shape[1:] != mask.shape:
            raise _reshaped(name, mask.shape, changed.shape[1:])


def _reshaped(name: str, before: Sequence[int], after: Sequence[int]) -> ConfigError:
    return ConfigError(
        f"dataset.augment.{name}: must keep the shape, turns {tuple(before)} into {tuple(after)}",
        "choose arguments that keep the shape, which the model was built for",
    )
