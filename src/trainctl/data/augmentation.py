"""Training images changed at random: ``dataset.augment``, a list of torchvision.transforms.v2 classes.

Transforms get raw images on the device. (seed, epoch, sample) seed the random numbers of an image, so resumed
runs and any number of workers see the same images; the run's own random numbers (dropout) are not used.

The common transforms are written here for whole batches. Every other one is torchvision's: on the whole
batch if it draws nothing, else image by image, which costs Python and, on a GPU, kernels for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, Len
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from trainctl.data.sampler import derived_seed
from trainctl.data.types import AnySplit, Split
from trainctl.errors import ConfigError, Problem, did_you_mean
from trainctl.registry.constraints import Count, NonNegativeInt, describe, show
from trainctl.registry.signature import from_object

_Chance = Annotated[float, Ge(0), Le(1)]
_TRIALS = 8


class RandomHorizontalFlip:
    """Mirror an image left to right with probability ``p``.

    Shape: (N, C, H, W) to the same, given one number in [0, 1) an image.
    """

    draws = 1
    dimension = -1

    def __init__(self, p: _Chance = 0.5) -> None:
        self.p = p

    def __call__(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        # Whole images are copied, from the batch or its mirror image: on bytes four times as fast as `where`,
        # which looks at each pixel.
        number = torch.arange(len(inputs), device=inputs.device)
        both = torch.cat((inputs, inputs.flip(self.dimension)))
        return both.index_select(0, torch.where(numbers[0] < self.p, number + len(inputs), number))


class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirror an image top to bottom with probability ``p``."""

    dimension = -2


class RandomCrop:
    """Cut a window of ``size`` out of an image, at a random place, after padding with ``fill``.

    Args:
        size: (height, width) of the window, or one number for both.
        padding: pixels on all sides, on [left and right, top and bottom], or on [left, top, right, bottom].
        pad_if_needed: pad an image that is smaller than the window.
        fill: the raw value of the padding.
        padding_mode: only ``constant`` here; torchvision does the others.

    Shape: (N, C, H, W) to (N, C, *size), given two numbers in [0, 1) an image.
    """

    draws = 2

    def __init__(
        self,
        size: Count | Annotated[list[Count], Len(1, 2)],
        padding: NonNegativeInt | Annotated[list[NonNegativeInt], Len(1, 4)] | None = None,
        pad_if_needed: bool = False,
        fill: int | float = 0,
        padding_mode: Literal["constant"] = "constant",
    ) -> None:
        sizes = [size] if isinstance(size, int) else size
        self.height, self.width = sizes[0], sizes[-1]
        sides = [padding or 0] if isinstance(padding, int | None) else padding
        if len(sides) == 3:
            raise ValueError("padding has 1, 2 or 4 numbers")
        self.left, self.top, self.right, self.bottom = sides * (4 // len(sides))
        self.pad_if_needed, self.fill = pad_if_needed, fill

    def __call__(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        height, width = inputs.shape[-2] + self.top + self.bottom, inputs.shape[-1] + self.left + self.right
        more = [max(0, self.width - width), max(0, self.height - height)] if self.pad_if_needed else [0, 0]
        sides = (self.left + more[0], self.right + more[0], self.top + more[1], self.bottom + more[1])
        height, width = height + 2 * more[1], width + 2 * more[0]
        if height < self.height or width < self.width:
            raise ValueError(f"a window of {(self.height, self.width)} is larger than {(height, width)}")
        padded = nn.functional.pad(inputs, sides, value=self.fill).reshape(-1)
        top = (numbers[0] * (height - self.height + 1)).long()
        left = (numbers[1] * (width - self.width + 1)).long()
        # Copied row by row of a window, each a piece of the flat batch: on bytes five times as fast as an
        # index of pixels.
        images, channels, rows = (
            torch.arange(length, device=inputs.device) for length in (*inputs.shape[:2], self.height)
        )
        first = (images * len(channels) * height + top) * width + left
        starts = first[:, None, None] + (channels[:, None] * height + rows) * width
        windows = padded.unfold(0, self.width, 1).index_select(0, starts.reshape(-1))
        return windows.view(*inputs.shape[:2], self.height, self.width)


_OWN: dict[str, Callable[..., Any]] = {
    own.__name__: own for own in (RandomHorizontalFlip, RandomVerticalFlip, RandomCrop)
}


class _Whole:
    """A transform of torchvision that draws nothing, for the whole batch."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, inputs: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.transform(inputs).as_subclass(Tensor)


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
    """

    def __init__(self, stages: Sequence[Any], seed: int, samples: int) -> None:
        self.stages, self.seed, self.samples = tuple(stages), seed, samples
        self._epoch: int | None = None
        self._numbers: dict[int, Tensor] = {}

    def __call__(self, inputs: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Augment raw images.

        Args:
            inputs: (N, C, H, W).
            index: (N,), the samples' numbers in the training split, on the same device.
            epoch: epochs completed.
        """
        if epoch != self._epoch:
            self._draw(epoch, inputs.device)
        for number, stage in enumerate(self.stages):
            if number in self._numbers:
                inputs = stage(inputs, self._numbers[number].index_select(1, index))
                continue
            each_image = index.tolist() if isinstance(stage, _EachImage) else []
            inputs = stage(inputs, [derived_seed("augment", self.seed, epoch, number, n) for n in each_image])
        return inputs

    def _draw(self, epoch: int, device: torch.device) -> None:
        """The epoch's numbers for all samples at once: a batch then costs one gather instead of its draws."""
        for number, stage in enumerate(self.stages):
            if draws := getattr(stage, "draws", 0):
                seed = derived_seed("augment", self.seed, epoch, number)
                # On the CPU, so that they are the same for every device.
                generator = torch.Generator().manual_seed(seed)
                self._numbers[number] = torch.rand(draws, self.samples, generator=generator).to(device)
        self._epoch = epoch


def make_augment(entries: Sequence[str | Mapping[str, Any]], split: AnySplit, seed: int) -> Augment | None:
    """The transforms of ``dataset.augment``, tried on a training sample; None for an empty list.

    Raises ConfigError for an unknown transform or argument, naming the nearest, and for a transform that
    fails on these images or changes their shape or type.
    """
    if not entries:
        return None
    transforms = _make_all(entries, "dataset.augment")
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
    return Augment([_tried(transform, raw) for transform in transforms], seed, len(split))


def _make_all(entries: Sequence[Any], where: str, *, nested: bool = False) -> list[Any]:
    """Make every transform of a list; all problems are reported at once.

    Args:
        nested: they are arguments of a transform, which works image by image: all are torchvision's.
    """
    made: list[Any] = []
    problems: list[Problem] = []
    for entry in entries:
        try:
            name, arguments = _parsed(entry, where)
            made.append(_make(name, arguments, f"{where}.{name}", nested))
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


def _make(name: str, arguments: dict[str, Any], where: str, nested: bool) -> Any:
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
            arguments["transforms"] = _make_all(inner, where, nested=True)
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


def _reshaped(name: str, before: Sequence[int], after: Sequence[int]) -> ConfigError:
    return ConfigError(
        f"dataset.augment.{name}: must keep the shape, turns {tuple(before)} into {tuple(after)}",
        "choose arguments that keep the shape, which the model was built for",
    )
