"""Tar and Parquet shards, on the disk or on a bucket: more data than the disk has room for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from trainctl.data import Data, ItemSplit, Standardize
from trainctl.data.images.decoding import Decoder
from trainctl.data.order import Chunks
from trainctl.data.shards.cache import Cache
from trainctl.data.shards.index import Index, built
from trainctl.data.shards.part import Wanted
from trainctl.data.shards.reader import Files, Reader
from trainctl.data.shards.source import KINDS, Shard, Source
from trainctl.errors import ConfigError, MissingDataError
from trainctl.registry import DATASETS, Count, NonNegativeInt, Positive

_WINDOW = 16


@DATASETS.register("shards")
def shards(
    path: str = "shards",
    val_path: str | None = None,
    test_path: str | None = None,
    inputs: list[str] = [],  # noqa: B006 - read only; a list is what a config gives
    target: str | None = None,
    task: Literal["auto", "classification", "regression"] = "auto",
    size: tuple[Count, Count] = (64, 64),
    channels: Literal[1, 3] = 3,
    resize: Literal["crop", "stretch"] = "crop",
    mean: float = 0.5,
    std: Positive = 0.25,
    window: NonNegativeInt | Literal["auto"] = "auto",
    cache_gb: Positive = 20.0,
    cache_dir: str | None = None,
    download: bool = False,
) -> Data:
    """Tar or Parquet shards, here or at a URL; each sample is found through an index, which is built once.

    In a tar, by webdataset's convention, members of one name up to its first dot are a sample: an image or
    .npy, and its target in .cls, .txt or .json. In Parquet they are columns: one of images, one of lists, or
    numbers.

    Args:
        path: a shard, a folder of shards, whose splits are those that begin with train, val or dev, and test,
            or a pattern such as s3://bucket/train-*.tar.
        val_path: the shards to validate on, in the place of those that are held out.
        test_path: the shards to test on.
        inputs: the extension, or the columns, that the model gets; empty: the image or array.
        target: the extension, the field of .json, or the column to predict; null: one of a usual name.
        task: what the target is. auto: texts and whole numbers are classes, floats are values.
        size: height and width that images are brought to.
        channels: 3 for colour, 1 for grey.
        resize: how images are brought to the size: crop fills it and cuts off what is over, stretch changes
            the proportions.
        mean: subtracted from pixels in [0, 1].
        std: divides the difference.
        window: shards whose samples are mixed at a time; 0 mixes all samples; auto: 16 at a URL, 0 else.
        cache_gb: what is copied from a URL, or made of Parquet, takes at most so much of the disk.
        cache_dir: the folder for that, and for the index; null: in the user's cache folder.
        download: read what a URL names.

    Shape: images (N, channels, *size) uint8, arrays as they are, numbers (N, columns) float32; targets (N,)
    int64 in the order of the classes' names, or floats.

    Raises:
        ConfigError: for shards that are damaged, or do not fit together.
        MissingDataError: when there are none.
        StorageError: where they cannot be read, or copied.
    """
    places = {"train": path, "val": val_path, "test": test_path}
    sources = {name: Source(place) for name, place in places.items() if place is not None}
    splits = _split(sources, _stand_in((channels, *size), task), download=download)
    every = tuple(shard for each in splits.values() for shard in each)
    folder = Path(cache_dir).expanduser() if cache_dir else _cache_folder()
    wanted, limit = Wanted(tuple(inputs), target, task), int(cache_gb * 1e9)
    files = Files(sources["train"], Cache(folder / "files", limit), wanted)
    index = built(every, len(splits["train"]), wanted, folder / "index", files.indexed)
    if window == "auto":
        window = _WINDOW if sources["train"].remote else 0
    whole = not files.is_cached(every[0]) or _fits(index, every[0], window, limit)
    image = index.about[0]["kind"] == "image"
    decoder = Decoder((size[0], size[1]), channels, resize) if image else None
    reader = Reader(files, every, index.paths, index.ends.tolist(), decoder, whole)
    shape = (channels, *size) if image else tuple(reader.raw["shape"])
    sizes = sum(each.size for each in every) / 1e9
    notes = [
        f"{len(every)} shards of {sizes:.3g} GB: {index.about[0]['source']}",
        "index cached" if index.known else "indexed",
        *([f"windows of {window} shards are mixed"] if window else []),
    ]
    made, classes = _item_splits(splits, index, reader, window), not index.targets.is_floating_point()
    return Data(
        name=Path(path).stem.strip("*-") or "shards",
        task="classification" if classes else "regression",
        train=made["train"],
        val=made.get("val"),
        test=made.get("test"),
        input_shape=shape,
        output_size=_outputs(index) if classes else 1,
        transform=Standardize(255.0, mean, std) if image else _transform(reader.raw["dtype"]),
        classes=index.classes,
        note="; ".join(notes),
        reading={"kind": "image", "resize": resize, "largest": 255} if image else {},
    )


def _item_splits(
    splits: Mapping[str, Sequence[Shard]], index: Index, reader: Reader, window: int
) -> dict[str, ItemSplit]:
    made, first, start = {}, 0, 0
    for name, each in splits.items():
        ends = index.ends[first : first + len(each)]
        stop = int(ends[-1])
        chunks = Chunks(ends - start, window) if window else None
        load = replace(reader, first=first)
        made[name] = ItemSplit(range(start, stop), index.targets[start:stop], load, chunks=chunks)
        first, start = first + len(each), stop
    return made


def _outputs(index: Index) -> int:
    samples, outputs = len(index.targets), max(len(index.classes), int(index.targets.max()) + 1)
    if outputs > max(samples, len(index.classes)):
        raise ConfigError(
            f"dataset=shards: a target is {outputs - 1}, but {samples} samples cannot have so many classes",
            "number the classes from 0, or use dataset.task=regression",
        )
    return outputs


def _transform(dtype: str) -> nn.Module:
    """Whole numbers stay what they are: they may be tokens."""
    if dtype == "uint8":
        return Standardize(255.0)
    return Standardize() if dtype.startswith("float") and dtype != "float32" else nn.Identity()


def _split(
    sources: Mapping[str, Source], stand_in: dict[str, object], *, download: bool
) -> dict[str, list[Shard]]:
    """The shards of each split, train first."""
    splits: dict[str, list[Shard]] = {"train": [], "val": [], "test": []}
    for name, source in sources.items():
        asked = f"dataset.{'path' if name == 'train' else f'{name}_path'}={source.place}"
        if source.connects and not download:
            raise MissingDataError(f"{asked}: is not here", "dataset.download=true reads it", stand_in)
        if source.protocol != sources["train"].protocol:
            raise ConfigError(f"{asked}: all shards must be here, or on one service", "copy some of them")
        found = source.shards()
        if not found:
            remedy = "write * in the place of {000..999}" if "{" in source.place else "name a folder of them"
            raise MissingDataError(f"{asked}: there are no shards ({', '.join(KINDS)})", remedy, stand_in)
        if splits[name]:
            raise ConfigError(
                f"{asked}: dataset.path has shards for {name}, too, such as {splits[name][0].path}",
                "give dataset.path a pattern that matches train alone: …/train*",
            )
        for shard in found:
            splits[source.split(shard) if name == "train" else name].append(shard)
    every = [shard for each in splits.values() for shard in each]
    if not splits["train"] or len({shard.is_parquet for shard in every}) > 1:
        wrong = "has tar and Parquet files" if splits["train"] else "has no shards to train on"
        raise ConfigError(
            f"dataset.path={sources['train'].place} {wrong}", "a pattern names some: …/train*.tar"
        )
    return {name: each for name, each in splits.items() if each}


def _stand_in(shape: tuple[int, ...], task: str) -> dict[str, object]:
    values = task == "regression"
    kind = "regression" if values else "classification"
    return {"task": kind, "shape": list(shape), "outputs": 1 if values else 10}


def _fits(index: Index, shard: Shard, window: int, limit: int) -> bool:
    """Whether shards are copied as a whole. Raises ConfigError where the cache is too small for that."""
    sizes = [each["size"] for each in index.about]
    total, given = f"{sum(sizes) / 1e9:.3g} GB", f"dataset.cache_gb={limit / 1e9:g}"
    if sum(sizes) <= limit:
        return True
    if window == 0 and not shard.is_parquet:
        return False
    if window == 0:
        raise ConfigError(
            f"dataset.window=0: {given} does not hold all shards, {total}", f"dataset.window={_WINDOW}"
        )
    if 2 * window * max(sizes) > limit:
        each = f"{max(sizes) / 1e9:.3g} GB"
        raise ConfigError(
            f"{given} does not hold two windows of {window} shards of up to {each}, nor all shards, {total}",
            "raise it, or lower dataset.window",
        )
    return True


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainctl" / "shards"
