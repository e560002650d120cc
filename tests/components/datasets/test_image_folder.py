"""Folders of images that nobody prepared: read alike whatever they are, decoded once, broken ones named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from trainctl.components.datasets.image_folder import image_folder
from trainctl.data import Data, ItemSplit, Split
from trainctl.data.images.decoding import Decoder
from trainctl.data.images.listing import images_below
from trainctl.data.preprocessing import describe, make_transform
from trainctl.errors import ConfigError, MissingDataError

RED, GREEN = (220, 30, 30), (30, 200, 40)


def noisy(colour: tuple[int, ...], height: int, width: int, seed: int) -> Image.Image:
    noise = numpy.random.default_rng(seed).normal(0, 12, (height, width, len(colour)))
    return Image.fromarray((numpy.array(colour) + noise).clip(0, 255).astype(numpy.uint8))


def fill(folder: Path, colour: tuple[int, int, int], files: int = 6, seed: int = 0) -> None:
    """Images of one colour in every form that a folder from somewhere has."""
    folder.mkdir(parents=True)
    for number in range(files):
        height, width = 17 + 9 * number, 60 - 5 * number
        image = noisy(colour, height, width, seed + number)
        if number % 3 == 0:
            image.save(folder / f"{number}.PNG")
        elif number % 3 == 1:
            image.save(folder / f"{number}.jpg", quality=90)
        else:
            image.quantize(16).save(folder / f"{number}.gif")
    noisy(colour, 30, 30, seed).convert("L").save(folder / "grey.jpeg")
    noisy(colour, 30, 30, seed).quantize(8).save(folder / "palette.png")
    alpha = noisy(colour, 30, 50, seed).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    alpha.save(folder / "alpha.webp", lossless=True)
    noisy(colour, 30, 30, seed).save(folder / "plain.bmp")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """One sub-folder a class, some deeper, with files that are no images."""
    root = tmp_path / "fruit"
    fill(root / "apple", RED)
    fill(root / "pear" / "2024", GREEN)
    (root / "pear" / "labels.txt").write_text("pear")
    (root / "apple" / ".DS_Store").write_bytes(b"\0")
    return root


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """train/, val/ and test/ of class folders."""
    root = tmp_path / "parts"
    for part, files in (("train", 12), ("val", 3), ("test", 4)):
        fill(root / part / "b red", RED, files)
        fill(root / part / "a green", GREEN, files, seed=50)
    return root


def break_one(root: Path) -> Path:
    """A photograph that was cut off while it was copied."""
    victim = sorted(root.rglob("*.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:200])
    return victim


def everything(data: Data) -> Any:
    def whole(part: Any) -> Any:
        if isinstance(part, ItemSplit):
            return torch.stack([part.load(item) for item in part.items]), part.targets
        return part.inputs, part.targets

    return [whole(part) for part in (data.train, data.val, data.test) if part is not None]


def same(first: Data, second: Data) -> bool:
    pairs = zip(everything(first), everything(second), strict=True)
    return all(torch.equal(*each) for pair in pairs for each in zip(*pair, strict=True))


def make(root: Path, **arguments: Any) -> Data:
    return image_folder(path=str(root), **{"size": (16, 20), **arguments})


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Decoder, path: str) -> Any:
        raise AssertionError(f"decoded {path}")

    monkeypatch.setattr(Decoder, "__call__", refuse)


def test_a_folder_of_classes(flat: Path) -> None:
    data = make(flat)
    assert (data.name, data.task, data.classes, data.output_size) == (
        "fruit",
        "classification",
        ("apple", "pear"),
        2,
    )
    assert data.input_shape == (3, 16, 20)
    assert isinstance(data.train, Split)
    assert data.train.inputs.shape == (20, 3, 16, 20)
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.targets.tolist() == [0] * 10 + [1] * 10
    assert data.val is None
    assert data.test is None
    assert "1 other file ignored" in data.note
    means = data.train.inputs.float().mean((2, 3))
    # All but the grey one are red or green.
    assert ((means[:, 0] > means[:, 1]) == (data.train.targets == 0)).sum() >= 18


def test_folders_train_val_and_test(split: Path) -> None:
    data = make(split)
    assert data.classes == ("a green", "b red")
    assert [len(part) for part in (data.train, data.val, data.test)] == [32, 14, 16]
    for inputs, targets in everything(data):
        assert sorted(set(targets.tolist())) == [0, 1]
        means = inputs.float().mean((2, 3))
        assert ((means[:, 0] > means[:, 1]).long() == targets).float().mean() > 0.85


@pytest.mark.parametrize(
    "options", [{}, {"channels": 1}, {"resize": "stretch"}, {"size": (9, 5), "channels": 1}]
)
def test_every_way_of_reading_gives_the_same_pixels(flat: Path, split: Path, options: dict[str, Any]) -> None:
    for root in (flat, split):
        first = make(root, **options)
        assert "decoded in" in first.note
        second = make(root, **options)
        assert second.note.startswith("cached")
        mapped = make(root, **options, max_resident_gb=0.0)
        assert isinstance(mapped.train, ItemSplit)
        files = make(root, **options, cache=False)
        assert isinstance(files.train, ItemSplit)
        assert files.note.startswith("not cached")
        assert same(first, second)
        assert same(first, mapped)
        assert same(first, files)


def test_the_second_run_decodes_nothing(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(flat)
    no_decoding(monkeypatch)
    assert same(make(flat), first)
    with pytest.raises(AssertionError, match="decoded"):
        make(flat, size=(8, 8))


@pytest.mark.parametrize("change", ["touched", "added", "removed", "renamed"])
def test_a_changed_folder_is_decoded_again(flat: Path, change: str) -> None:
    before = make(flat)
    victim = flat / "apple" / "0.PNG"
    if change == "touched":
        noisy((255, 255, 255), 17, 60, 0).save(victim)
        os.utime(victim, ns=(1, 1))
    elif change == "added":
        noisy(RED, 20, 20, 9).save(flat / "apple" / "new.png")
    elif change == "removed":
        victim.unlink()
    else:
        victim.rename(flat / "pear" / "0.png")
    after = make(flat)
    assert "decoded in" in after.note
    assert not (len(after.train) == len(before.train) and same(before, after))
    assert make(flat).note.startswith("cached")


def test_the_folder_itself_stays_as_it_was(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(flat.rglob("*"))
    make(flat)
    monkeypatch.chdir(flat)
    assert make(Path()).note.startswith("cached")
    assert sorted(flat.rglob("*")) == before


def test_a_cache_that_is_torn_is_made_again(flat: Path) -> None:
    first = make(flat)
    (cache,) = (flat.with_name(".fruit.trainctl")).iterdir()
    cache.write_bytes(cache.read_bytes()[:1000])
    again = make(flat)
    assert "decoded in" in again.note
    assert same(first, again)


def test_where_the_folder_cannot_be_written_the_cache_folder_is_used(flat: Path, tmp_path: Path) -> None:
    (flat.with_name(".fruit.trainctl")).write_text("a file is in the way")
    first = make(flat)
    assert str(tmp_path / ".cache" / "trainctl" / "images") in first.note
    second = make(flat)
    assert second.note.startswith("cached")
    assert same(first, second)


@pytest.mark.parametrize("small", [True, False])
def test_where_nothing_can_be_written_the_note_says_so(flat: Path, tmp_path: Path, small: bool) -> None:
    expected = make(flat)
    (cache,) = (flat.with_name(".fruit.trainctl")).iterdir()
    cache.unlink()
    (flat.with_name(".fruit.trainctl")).rmdir()
    (flat.with_name(".fruit.trainctl")).write_text("")
    (tmp_path / ".cache").write_text("")
    data = make(flat, max_resident_gb=4.0 if small else 0.0)
    assert "not cached: " in data.note
    assert isinstance(data.train, Split if small else ItemSplit)
    assert same(data, expected)


def test_a_full_disk_leaves_no_half_cache(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    data = make(flat)
    assert "not cached: No space left on device" in data.note
    assert not list((flat.with_name(".fruit.trainctl")).iterdir())


# ------------------------------------------------------------------ broken files


@pytest.mark.parametrize("options", [{}, {"max_resident_gb": 0.0}])
def test_a_broken_file_is_named(flat: Path, options: dict[str, Any]) -> None:
    victim = break_one(flat)
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            make(flat, **options)
        (problem,) = caught.value.problems
        assert str(victim) in problem.message
        assert "dataset.bad_files=skip" in problem.remedy


@pytest.mark.parametrize("options", [{}, {"max_resident_gb": 0.0}, {"cache": False}])
def test_broken_files_are_left_out_and_counted(flat: Path, options: dict[str, Any]) -> None:
    whole = everything(make(flat))[0]
    victim = break_one(flat)
    row = sorted((flat / "apple").iterdir()).index(victim) - 1  # a hidden file comes first
    for _ in range(2):
        data = make(flat, bad_files="skip", **options)
        assert "1 broken file left out" in data.note
        assert len(data.train) == 19
        inputs, targets = everything(data)[0]
        kept = [number for number in range(20) if number != row]
        assert torch.equal(inputs, whole[0][kept])
        assert torch.equal(targets, whole[1][kept])
    if options.get("cache", True):
        with pytest.raises(ConfigError, match=victim.name):
            make(flat, **options)


def test_a_class_of_broken_files_only_is_refused(flat: Path) -> None:
    for path in (flat / "apple").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(ConfigError, match="class apple has no image"):
        make(flat, bad_files="skip")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: (root / "empty").mkdir(), "empty holds no images"),
        (lambda root: [path.unlink() for path in (root / "apple").iterdir()], "apple holds no images"),
    ],
)
def test_a_class_without_images_is_refused(
    flat: Path, prepare: Callable[[Path], object], message: str
) -> None:
    prepare(flat)
    with pytest.raises(ConfigError, match=message):
        make(flat)


def test_a_test_class_that_training_lacks_is_refused(split: Path) -> None:
    fill(split / "test" / "blue", (0, 0, 255))
    with pytest.raises(ConfigError, match="blue is not a class of") as caught:
        make(split)
    assert "a green, b red" in caught.value.problems[0].remedy


def test_a_class_beside_train_is_refused(split: Path) -> None:
    fill(split / "blue", (0, 0, 255))
    with pytest.raises(ConfigError, match="holds blue/"):
        make(split)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path / "vehicles" / "train", RED)
    fill(tmp_path / "vehicles" / "plane", GREEN)
    assert make(tmp_path / "vehicles").classes == ("plane", "train")


def test_one_class_or_none_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "only", RED)
    with pytest.raises(ConfigError, match="at least two classes, has only only/"):
        make(tmp_path / "one")
    with pytest.raises(ConfigError, match="at least two classes, has none"):
        make(tmp_path / "one" / "only")


def test_an_absent_folder_is_named_with_a_stand_in() -> None:
    with pytest.raises(MissingDataError, match=r"there is no folder .*nowhere") as caught:
        make(Path("nowhere"))
    assert caught.value.stand_in == {"task": "classification", "shape": [3, 16, 20], "outputs": 10}


# ------------------------------------------------------------------ decoding


def decoded(image: Image.Image, tmp_path: Path, name: str = "image.png", **options: Any) -> Any:
    path = tmp_path / name
    image.save(path)
    return Decoder(**{"size": (4, 6), "channels": 3, "resize": "crop", **options})(str(path))


def test_transparent_pixels_are_laid_over_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    assert (decoded(clear, tmp_path) == 255).all()
    half = decoded(Image.new("LA", (6, 4), (0, 128)), tmp_path, channels=1)
    assert half.shape == (1, 4, 6)
    assert ((half - 127).abs() <= 1).all()
    palette = Image.new("P", (6, 4), 3)
    palette.info["transparency"] = 3
    assert (decoded(palette, tmp_path, "image.gif") == 255).all()


def test_sixteen_bits_are_brought_to_eight(tmp_path: Path) -> None:
    values = numpy.full((4, 6), 257 * 100, dtype=numpy.uint16)
    assert (decoded(Image.fromarray(values), tmp_path, channels=1) == 100).all()
    assert (decoded(Image.fromarray(values), tmp_path) == 100).all()


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    lying = Image.fromarray(numpy.tile(numpy.array([[0], [255]], dtype=numpy.uint8).repeat(6, 0), (1, 12)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    lying.save(tmp_path / "photo.jpg", exif=exif, quality=100)
    turned = Decoder((12, 12), 1, "crop")(str(tmp_path / "photo.jpg"))[0].float()
    assert turned[:, :5].mean() > 240
    assert turned[:, 7:].mean() < 15


def test_crop_keeps_the_proportions_and_stretch_does_not(tmp_path: Path) -> None:
    stripes = numpy.zeros((10, 40), dtype=numpy.uint8)
    stripes[:, 15:25] = 255  # the middle quarter
    image = Image.fromarray(stripes)
    cropped = decoded(image, tmp_path, size=(10, 10), channels=1)
    assert (cropped == 255).all()
    stretched = decoded(image, tmp_path, size=(10, 10), channels=1, resize="stretch")
    assert stretched[0, 5, 0] == 0
    assert stretched[0, 5, 5] > 200


def test_a_large_photograph_looks_like_a_small_one(tmp_path: Path) -> None:
    large = noisy(RED, 900, 1400, 0)
    by_jpeg = decoded(large, tmp_path, "large.jpg", size=(32, 32)).float()
    by_png = decoded(large, tmp_path, "large.png", size=(32, 32)).float()
    assert (by_jpeg - by_png).abs().mean() < 4


def test_a_file_that_is_something_else_is_broken_whatever_its_name(tmp_path: Path) -> None:
    Image.new("RGB", (5, 5)).save(tmp_path / "other.tiff")
    (tmp_path / "other.tiff").rename(tmp_path / "other.png")
    with pytest.raises(ConfigError, match=r"other\.png is broken"):
        Decoder((4, 4), 3, "crop")(str(tmp_path / "other.png"))


# ------------------------------------------------------------------ whole runs


@pytest.mark.quick(1)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_met_while_training_ends_the_run_with_its_name(
    trainctl, flat: Path, workers: int
) -> None:
    victim = break_one(flat)
    words = (
        "dataset=image_folder",
        f"dataset.path={flat}",
        "dataset.cache=false",
        "model=linear",
        "threads=1",
    )
    outcome = trainctl(*words, "batch_size=4", "dataset.val=2", f"loader.workers={workers}")
    assert outcome.code == 2
    assert f"{victim} is broken" in outcome.err.replace("\n", "")
    assert "dataset.bad_files=skip" in outcome.err


# ------------------------------------------------------------------- links, thumbnails, exchanged files


def test_exchanged_files_of_equal_size_and_time_are_decoded_again(tmp_path: Path) -> None:
    for name, colour in (("apple", RED), ("pear", GREEN)):
        (tmp_path / "fruit" / name).mkdir(parents=True)
        for number in range(4):
            file = tmp_path / "fruit" / name / f"{number}.bmp"
            Image.new("RGB", (8, 8), colour).save(file)
            os.utime(file, (1_700_000_000, 1_700_000_000))
    root = tmp_path / "fruit"
    before = make(root).train.inputs.clone()
    (root / "apple").rename(root / "x")
    (root / "pear").rename(root / "apple")
    (root / "x").rename(root / "pear")
    assert torch.equal(make(root).train.inputs, before.flip(0))
    # Written over in place, with the old date.
    pixels = (root / "pear" / "0.bmp").read_bytes()
    (root / "apple" / "0.bmp").write_bytes(pixels)
    os.utime(root / "apple" / "0.bmp", (1_700_000_000, 1_700_000_000))
    found = make(root).train.inputs
    assert torch.equal(found[0], found[4])


@pytest.mark.parametrize("place", ["", "apple"])
def test_what_systems_put_beside_the_images_is_no_sample(flat: Path, place: str) -> None:
    expected = len(make(flat).train)
    for name in ("@eaDir", ".thumbnails", "__MACOSX", *(["Thumbs"] if place else [])):
        (flat / place / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), RED).save(flat / place / name / "thumb.jpg")
    Image.new("RGB", (8, 8), RED).save(flat / "apple" / "._1.jpg")
    data = make(flat)
    assert (data.classes, len(data.train)) == (("apple", "pear"), expected)
    assert f"left out: @eaDir/, {'Thumbs/, ' if place else ''}__MACOSX/" in data.note


def test_how_images_are_prepared_is_stored_with_the_run(flat: Path) -> None:
    data = make(flat, mean=0.4)
    pixels = data.train.inputs[:2]
    again = make_transform(describe(data)["transform"])
    assert torch.equal(again(pixels), data.transform(pixels))


def test_thumbs_may_be_a_class(flat: Path) -> None:
    (flat / "pear").rename(flat / "thumbs")
    assert make(flat).classes == ("apple", "thumbs")
    found = {image.relative_to(flat).parts[0] for image in images_below(flat).images}
    assert found == {"apple", "thumbs"}


def test_a_pipe_among_the_images_is_a_broken_one(flat: Path) -> None:
    os.mkfifo(flat / "apple" / "pipe.png")
    with pytest.raises(ConfigError, match=r"pipe\.png is broken: .*not a regular file"):
        make(flat)
    assert "1 broken file left out" in make(flat, bad_files="skip").note


def test_linked_folders_are_followed_once(flat: Path, tmp_path: Path) -> None:
    expected = len(make(flat).train)
    fill(tmp_path / "elsewhere", RED, files=3)
    more = len(images_below(tmp_path / "elsewhere").images)
    (flat / "apple" / "linked").symlink_to(tmp_path / "elsewhere")
    (flat / "apple" / "again").symlink_to(tmp_path / "elsewhere")
    (flat / "apple" / "round").symlink_to(flat / "apple")
    data = make(flat)
    assert (data.classes, len(data.train)) == (("apple", "pear"), expected + more)
    assert "linked (a folder that is here already)/, round (a folder that is here already)/" in data.note


def test_no_link_gives_the_images_of_one_class_to_another(flat: Path, tmp_path: Path) -> None:
    expected = make(flat).train.targets
    for name, target in (("all", flat), ("more", flat / "pear")):
        (flat / "apple" / name).symlink_to(target)
    data = make(flat)
    assert torch.equal(data.train.targets, expected)
    assert "all (a folder that is here already)/, more (a folder that is here already)/" in data.note
    (flat / "plum").symlink_to(flat / "pear")
    with pytest.raises(ConfigError, match=r"plum and .*pear are one folder"):
        make(flat)


def test_a_link_that_leads_nowhere_is_a_broken_file(flat: Path) -> None:
    expected = len(make(flat).train)
    (flat / "apple" / "gone.png").symlink_to(flat / "nowhere.png")
    with pytest.raises(ConfigError, match=r"gone\.png is broken"):
        make(flat)
    data = make(flat, bad_files="skip")
    assert len(data.train) == expected
    assert "1 broken file left out" in data.note
    (flat / "plum").symlink_to(flat / "nowhere")
    with pytest.raises(ConfigError, match="plum is a link that leads nowhere"):
        make(flat, bad_files="skip")
