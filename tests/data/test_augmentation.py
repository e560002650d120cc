"""Augmentation: decided by (seed, epoch, sample), kept to the shape, refused where it is wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.program import modules_after
from tests.helpers.runs import weights
from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.loaders.workers import WorkersLoader
from trainctl.data import ItemSplit, Split, Standardize
from trainctl.data.augmentation import (
    Augment,
    RandomCrop,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    make_augment,
)
from trainctl.errors import ConfigError
from trainctl.registry.protocols import Cursor

CPU = torch.device("cpu")
SAMPLES = 40
IMAGES = torch.randint(
    0, 256, (SAMPLES, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
SPLIT = Split(IMAGES, torch.arange(SAMPLES))
INDEX = torch.arange(SAMPLES)
OWN = ["RandomHorizontalFlip", "RandomVerticalFlip", {"RandomCrop": {"size": [6, 8], "padding": 2}}]
OTHERS: list[Any] = [
    {"ColorJitter": {"brightness": 0.4, "contrast": 0.3}},
    {"RandomRotation": {"degrees": 20, "interpolation": "bilinear"}},
    {"RandomApply": {"transforms": [{"RandomCrop": {"size": [6, 8], "padding": 1}}], "p": 0.5}},
    "RandAugment",
]


def row(item: int) -> Tensor:
    return IMAGES[item]


def made(entries: list[Any], seed: int = 0, split: Any = SPLIT) -> Augment:
    augment = make_augment(entries, split, seed)
    assert augment is not None
    return augment


def problem_of(entries: list[Any], split: Any = SPLIT) -> Any:
    with pytest.raises(ConfigError) as caught:
        make_augment(entries, split, 0)
    assert caught.value.exit_code == 2
    return caught.value.problems[0]


def test_no_entries_no_augmentation() -> None:
    assert make_augment([], SPLIT, 0) is None
    assert make_augment((), SPLIT, 0) is None


# ------------------------------------------------------------------ what an image becomes


@pytest.mark.parametrize("entries", [OWN, OTHERS, [*OWN, *OTHERS]], ids=["own", "torchvision", "both"])
def test_an_image_depends_on_seed_epoch_and_sample_alone(entries: list[Any]) -> None:
    whole = made(entries)(IMAGES, INDEX, 3)
    assert whole.shape == IMAGES.shape
    assert whole.dtype == IMAGES.dtype
    assert type(whole) is Tensor
    again = made(entries)
    for index in (torch.tensor([7]), torch.tensor([39, 0, 12]), INDEX.flip(0)):
        again(IMAGES[:5], INDEX[:5], 8)  # what was asked before does not matter
        assert torch.equal(again(IMAGES[index], index, 3), whole[index])
    assert not torch.equal(made(entries)(IMAGES, INDEX, 4), whole)
    assert not torch.equal(made(entries, seed=1)(IMAGES, INDEX, 3), whole)


@pytest.mark.parametrize("entries", [OWN, OTHERS], ids=["own", "torchvision"])
def test_neither_the_data_nor_the_runs_random_numbers_change(entries: list[Any]) -> None:
    before, state = IMAGES.clone(), torch.get_rng_state()
    made(entries)(IMAGES, INDEX, 0)
    assert torch.equal(IMAGES, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("kind", "dimension"), [(RandomHorizontalFlip, 3), (RandomVerticalFlip, 2)])
def test_a_flip_mirrors_as_many_images_as_it_should(kind: type, dimension: int) -> None:
    flipped = IMAGES.flip(dimension)
    for p, low, high in ((0.0, 0, 0), (1.0, SAMPLES, SAMPLES), (0.5, 5, 35)):
        outputs = made([{kind.__name__: {"p": p}}])(IMAGES, INDEX, 0)
        mirrored = [torch.equal(output, image) for output, image in zip(outputs, flipped, strict=True)]
        kept = [torch.equal(output, image) for output, image in zip(outputs, IMAGES, strict=True)]
        assert all(one or other for one, other in zip(mirrored, kept, strict=True))
        assert low <= sum(mirrored) <= high


@pytest.mark.parametrize(
    ("padding", "sides"), [(2, (2, 2, 2, 2)), ([1, 3], (1, 3, 1, 3)), ([0, 1, 2, 3], (0, 1, 2, 3))]
)
def test_a_crop_is_a_window_of_the_padded_image_and_every_window_comes(
    padding: Any, sides: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = sides
    image = IMAGES[:1]
    padded = torch.full((3, 6 + top + bottom, 8 + left + right), 9, dtype=torch.uint8)
    padded[:, top : top + 6, left : left + 8] = image[0]
    windows = {
        padded[:, row : row + 6, column : column + 8].numpy().tobytes(): (row, column)
        for row in range(top + bottom + 1)
        for column in range(left + right + 1)
    }
    copies = image.expand(600, -1, -1, -1)
    crop = made(
        [{"RandomCrop": {"size": [6, 8], "padding": padding, "fill": 9}}],
        split=Split(copies, torch.zeros(600)),
    )
    seen = Counter(windows[output.numpy().tobytes()] for output in crop(copies, torch.arange(600), 0))
    assert set(seen) == set(windows.values())
    expected = 600 / len(windows)
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 2.5 * len(windows) + 10


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 6, "padding": [0, 3], "fill": 5},
        {"size": [9, 9], "pad_if_needed": True},
        {"size": [7, 3], "padding": [1, 2, 0, 4]},
        {"size": [6]},
    ],
)
def test_a_crop_is_torchvisions(arguments: dict[str, Any]) -> None:
    """The same windows are possible: torchvision's own output is one of ours."""
    from torchvision.transforms import v2

    theirs = v2.RandomCrop(**arguments)
    ours = RandomCrop(**arguments)
    numbers = torch.rand(2, 3000, generator=torch.Generator().manual_seed(0))
    possible = {each.numpy().tobytes() for each in ours(IMAGES[:1].expand(3000, -1, -1, -1), numbers)}
    torch.manual_seed(0)
    drawn = {theirs(IMAGES[0]).contiguous().numpy().tobytes() for _ in range(200)}
    assert drawn <= possible


def test_the_largest_number_that_can_be_drawn_stays_inside() -> None:
    crop = RandomCrop(6, padding=3)
    most = torch.full((2, SAMPLES), 1 - 2**-24)
    assert crop(IMAGES, most).shape == (SAMPLES, 3, 6, 6)


def test_what_draws_nothing_is_done_for_the_whole_batch() -> None:
    from torchvision.transforms import v2

    augment = made([{"Grayscale": {"num_output_channels": 3}}, {"ColorJitter": {"hue": 0.1}}])
    assert [type(stage).__name__ for stage in augment.stages] == ["_Whole", "_EachImage"]
    grey = made([{"Grayscale": {"num_output_channels": 3}}])(IMAGES, INDEX, 0)
    assert torch.equal(grey, v2.Grayscale(num_output_channels=3)(IMAGES))


# ------------------------------------------------------------------ in the loaders


@pytest.mark.quick(1)
@pytest.mark.parametrize("entries", [OWN, OTHERS[:2]], ids=["own", "torchvision"])
def test_resident_and_fed_batches_are_equal_from_any_position(entries: list[Any]) -> None:
    items = ItemSplit(range(SAMPLES), torch.arange(SAMPLES), row)

    def batches(each: Any, epoch: int, position: int = 0) -> list[tuple[Tensor, Tensor]]:
        return [batch[:2] for batch in each.batches(Cursor(epoch, position))]

    resident = ResidentLoader(SPLIT, Standardize(), 7, CPU, 0, made(entries))
    here = WorkersLoader(items, Standardize(), 7, CPU, 0, made(entries, split=items), workers=0)
    fed = WorkersLoader(items, Standardize(), 7, CPU, 0, made(entries, split=items), workers=2)
    try:
        for epoch in (0, 2):
            whole = batches(resident, epoch)
            assert any(not torch.equal(inputs, IMAGES[targets].float()) for inputs, targets in whole)
            for position in (0, 7, 35):
                for each in (resident, here, fed):
                    rest = batches(each, epoch, position)
                    for (inputs, targets), (expected, numbers) in zip(
                        rest, whole[position // 7 :], strict=True
                    ):
                        assert torch.equal(inputs, expected)
                        assert torch.equal(targets, numbers)
    finally:
        fed.close()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("entry", "message", "remedy"),
    [
        ("RandomHorizontalflip", "no such transform", "did you mean RandomHorizontalFlip?"),
        ("ColorJiter", "dataset.augment.ColorJiter", "did you mean ColorJitter?"),
        ({"RandomCrop": {"sze": 6, "size": 6}}, "RandomCrop.sze=6: no such argument", "did you mean size?"),
        ({"RandomCrop": {"padding": 1}}, "RandomCrop.size is missing", "RandomCrop needs it"),
        ({"RandomCrop": {"size": "big"}}, "RandomCrop.size=big: must be a whole number", ""),
        ({"RandomHorizontalFlip": {"p": 1.5}}, "RandomHorizontalFlip.p=1.5: must be a number", ""),
        ({"ColorJitter": {"brihtness": 1}}, "no such argument", "did you mean brightness?"),
        ({"ColorJitter": {"brightness": -1}}, "dataset.augment.ColorJitter: ", ""),
        ({"RandomRotation": {"degrees": 5, "interpolation": "cubic"}}, "interpolation=cubic", ""),
        (
            {"RandomApply": {"transforms": ["ColorJiter"]}},
            "RandomApply.ColorJiter",
            "did you mean ColorJitter?",
        ),
        ({"ColorJitter": 3}, "is not a transform", "write NAME"),
        ({"ColorJitter": {}, "RandomCrop": {}}, "is not a transform", "write NAME"),
        ({"RandomCrop": {"size": 4}}, "turns (3, 6, 8) into (3, 4, 4)", "keep the shape"),
        ({"Resize": {"size": [12, 12]}}, "turns (3, 6, 8) into (3, 12, 12)", "keep the shape"),
        ("Grayscale", "turns (3, 6, 8) into (1, 6, 8)", "keep the shape"),
        ({"RandomCrop": {"size": 30}}, "larger than", ""),
        ("ToPILImage", "returns Image", ""),
        ({"MixUp": {"num_classes": 10}}, "mixes the samples of a batch", "use dataset.mixup=0.2"),
        ({"FiveCrop": {"size": 2}}, "returns tuple", ""),
    ],
)
def test_a_wrong_entry_is_explained_before_the_run(entry: Any, message: str, remedy: str) -> None:
    problem = problem_of([entry])
    assert message in problem.message
    assert remedy in (problem.remedy or "")


def test_all_wrong_entries_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_augment(["ColorJiter", {"RandomCrop": {"sze": 6}}, "RandomHorizontalFlip"], SPLIT, 0)
    messages = " ".join(problem.message for problem in caught.value.problems)
    assert all(part in messages for part in ("ColorJiter", "sze", "size is missing"))


def test_what_is_no_image_is_refused() -> None:
    table = Split(torch.zeros(4, 5), torch.zeros(4))
    assert "samples have shape (5,)" in problem_of(["RandomHorizontalFlip"], table).message


def test_a_first_image_that_cannot_be_loaded_is_named() -> None:
    def broken(item: str) -> Tensor:
        raise OSError("cut off")

    split = ItemSplit(["a/first.png", "b.png"], torch.zeros(2), broken)
    assert (
        "a/first.png cannot be loaded: OSError: cut off"
        in problem_of(["RandomHorizontalFlip"], split).message
    )


# ------------------------------------------------------------------ whole runs


def test_a_run_is_augmented_says_so_and_repeats_itself(trainctl) -> None:
    words = ("threads=1", "epochs=2", "model.dropout=0.2")
    augment = "dataset.augment=[RandomHorizontalFlip, {RandomCrop: {size: 8, padding: 1}}]"
    for name, more in (("plain", ()), ("one", (augment,)), ("two", (augment,))):
        outcome = trainctl(*words, *more, f"hydra.run.dir={name}")
        assert outcome.code == 0, outcome.err
    assert "[RandomHorizontalFlip, {RandomCrop: {size: 8, padding: 1}}]" in outcome.out
    assert weights(Path("one")) == weights(Path("two")) != weights(Path("plain"))


@pytest.mark.slow
def test_the_common_ones_need_no_torchvision(tmp_path: Path) -> None:
    augment = "dataset.augment=[RandomHorizontalFlip,{RandomCrop:{size:8,padding:1}}]"
    found = modules_after("train.max_steps=3", augment, cwd=tmp_path)
    assert not {"torch._dynamo", "torchvision"} & found
