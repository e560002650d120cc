"""Datasets of Hugging Face: Parquet, Arrow and JSON files, saved datasets, and names on the Hub."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from trainctl.data import Data, Datasets
from trainctl.data.images.decoding import Decoder
from trainctl.data.map_style import from_datasets
from trainctl.data.tables.transform import TableTransform
from trainctl.data.types import split_rows
from trainctl.errors import ConfigError, MissingDataError, did_you_mean
from trainctl.registry import DATASETS, Count, Fraction, NonNegativeInt

_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json"}
_SPLITS = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}
_Splits = tuple[dict[str, Any], list[str]]
_TARGETS = ("label", "labels", "target", "targets", "class", "y")


@DATASETS.register("hf")
def hf(
    path: str | None = None,
    hub: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    inputs: list[str] = [],  # noqa: B006 - read only; a list is what a config gives
    target: str | None = None,
    task: Literal["auto", "classification", "regression"] = "auto",
    size: tuple[Count, Count] = (64, 64),
    channels: Literal[1, 3] = 3,
    resize: Literal["crop", "stretch"] = "crop",
    test: Fraction | NonNegativeInt = 0,
    test_seed: NonNegativeInt = 0,
    download: bool = False,
) -> Data:
    """A dataset that Hugging Face's library reads; its columns are chosen by name.

    Args:
        path: a Parquet, Arrow or JSON file, a folder of such files (train…, validation… and test… are its
            splits), or a folder that ``save_to_disk`` wrote.
        hub: the name of a dataset on the Hub, in the place of ``path``.
        subset: which of its configurations.
        revision: which version of it: a tag, a branch or a commit.
        inputs: the columns that the model gets; empty: the only column of images, else all but the target
            that are numbers. Single numbers are one
            vector, standardized; other columns are arguments of ``forward``.
        target: the column to predict; null: label, target, class or y.
        task: what the target is. auto: class labels, text and whole numbers are classes, floats are values.
        size: height and width that images are brought to.
        channels: 3 for colour, 1 for grey.
        resize: how images are brought to the size: crop fills it and cuts off what is over, stretch changes
            the proportions.
        test: samples to hold out for the test where there is no test split, a count or a fraction.
        test_seed: chooses the samples of ``test``.
        download: fetch what ``hub`` names where it is not in the cache of Hugging Face's library.

    Shape: images (N, channels, height, width) uint8, numbers (N, columns) float64, arrays as they are;
    targets (N,) int64 or floats.

    Raises:
        ConfigError: for columns that cannot be used; if the library is not installed.
        MissingDataError: when the file is not there.
    """
    if (path is None) == (hub is None):
        raise ConfigError("dataset=hf: needs a file or a name", "dataset.path=FILE, or dataset.hub=NAME")
    if path is not None:
        found = _files(Path(path).expanduser(), task)
        splits, unused = _read(Path(path), found)
    else:
        splits, unused = _from_hub(str(hub), subset, revision, download=download)
    columns = _Columns(splits["train"], inputs, target)
    decoder = Decoder((size[0], size[1]), channels, resize)
    if "test" not in splits:
        kept, held = split_rows(len(splits["train"]), test, test_seed)
        if held is not None:
            whole = splits["train"]
            splits = {**splits, "train": whole.select(kept.numpy()), "test": whole.select(held.numpy())}
    targets, classes = _targets(splits, columns.target, task)
    made: dict[str, Any] = {
        name: Rows(rows, columns, targets[name], decoder) for name, rows in splits.items()
    }
    chosen: dict[str, Any] = {} if task == "auto" else {"task": task}
    data = from_datasets(Datasets(**made, name=hub or Path(str(path)).name, classes=classes, **chosen), "hf")
    note = f"{columns.note} → {columns.target}; {data.note.partition(': ')[2]}"
    note += f"; splits not used: {', '.join(unused)}" if unused else ""
    kinds = set(columns.kinds.values())
    if kinds == {"number"}:
        fit = partial(_fit, made["train"])
        return replace(data, note=f"{note}, standardized", fit=fit, reading=_reading(columns))
    image = list(columns.kinds.values()) == ["image"]
    reading = {"kind": "image", "resize": resize, "largest": 255} if image else {}
    return replace(data, note=note + (", numbers as they are" if "number" in kinds else ""), reading=reading)


def _reading(columns: _Columns) -> dict[str, Any]:
    """How files of new samples are read: by the names of the columns."""
    flags = [str(columns.rows.features[name].dtype) == "bool" for name in columns.kinds]
    described: list[dict[str, Any]] = [
        {"name": name, "number": number, "kind": "flag" if flag else "number", "categories": []}
        for number, (name, flag) in enumerate(zip(columns.kinds, flags, strict=True), 1)
    ]
    return {
        "kind": "columns",
        "named": True,
        "width": len(described),
        "missing": "error",
        "dtype": "float64",
        "columns": described,
        "targets": [{"name": columns.target}],
    }


def _fit(made: Rows, train: Any) -> TableTransform:
    """Standardizes numbers by those of the training samples."""
    table = made.rows.select(list(train.items)).with_format("arrow")[:]
    columns = [table[name].to_numpy().astype(numpy.float64) for name in made.kinds]
    return TableTransform(torch.from_numpy(numpy.stack(columns, 1)), [0] * len(columns))


class Rows:
    """A split as a map-style dataset of torch."""

    def __init__(self, rows: Any, columns: _Columns, targets: Tensor, decoder: Decoder) -> None:
        self.rows, self.kinds = rows.select_columns(list(columns.kinds)), columns.kinds
        self.targets, self.decoder = targets, decoder

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        row = self.rows[index]
        numbers = [row[name] for name, kind in self.kinds.items() if kind == "number"]
        if absent := [name for name in self.kinds if row[name] is None or row[name] != row[name]]:
            raise ConfigError(
                f"row {index}: column {absent[0]} has no value", "leave out such rows, or the column"
            )
        parts = {name: self._part(row[name], kind) for name, kind in self.kinds.items() if kind != "number"}
        if numbers:
            parts["numbers"] = torch.tensor(numbers, dtype=torch.float64)
        return parts if len(parts) > 1 else next(iter(parts.values())), self.targets[index]

    def _part(self, value: Any, kind: str) -> Any:
        if kind == "array":
            return torch.as_tensor(numpy.asarray(value))
        content = value if isinstance(value, bytes) else value["bytes"]
        return self.decoder(value["path"]) if content is None else self.decoder.read(io.BytesIO(content))


@dataclass
class _Columns:
    """The columns that are used: their kinds by name (image, number, array), and the target."""

    rows: Any
    inputs: Sequence[str]
    wanted: str | None

    def __post_init__(self) -> None:
        kinds = {name: _kind(feature) for name, feature in self.rows.features.items()}
        self.target = self._target(kinds)
        for name in self.inputs:
            if name not in kinds:
                raise _no_column("inputs", name, kinds)
            if kinds[name] in ("text", "other") or name == self.target:
                what = "the target" if name == self.target else f"{self.rows.features[name]}"
                raise ConfigError(f"dataset.inputs: column {name} is {what}, not numbers or images")
        usable = {name: kind for name, kind in kinds.items() if name != self.target}
        usable = {name: kind for name, kind in usable.items() if kind not in ("text", "other")}
        images = [name for name, kind in usable.items() if kind == "image"]
        chosen = self.inputs or (images if images else list(usable))
        if len(images) > 1 and not self.inputs:
            raise ConfigError(
                f"dataset=hf: {len(images)} columns are images", f"choose: dataset.inputs=[{images[0]}]"
            )
        if not chosen:
            raise ConfigError(f"dataset=hf: no column is an input: {_listed(self.rows)}")
        self.kinds = {name: usable[name] for name in chosen}
        left = [name for name in kinds if name not in (*chosen, self.target)]
        self.note = ", ".join(chosen) + (f" (not used: {', '.join(left)})" if left else "")

    def _target(self, kinds: Mapping[str, str]) -> str:
        if self.wanted is not None:
            if self.wanted not in kinds:
                raise _no_column("target", self.wanted, kinds)
            return self.wanted
        found = [name for name in _TARGETS if name in kinds]
        if not found:
            raise ConfigError(
                f"dataset=hf: no column has a usual name for a target ({', '.join(_TARGETS)})",
                f"name one: dataset.target=NAME; there are: {', '.join(kinds)}",
            )
        return found[0]


def _no_column(key: str, name: str, kinds: Mapping[str, str]) -> ConfigError:
    hint = did_you_mean(name, list(kinds), f"dataset.{key}=")
    return ConfigError(
        f"dataset.{key}={name}: there is no such column", f"{hint}there are: {', '.join(kinds)}"
    )


def _listed(rows: Any) -> str:
    return ", ".join(f"{name} {feature}" for name, feature in rows.features.items())


def _kind(feature: Any) -> str:
    """What a column of this feature is: image, number, array, text or other."""
    name, dtype = type(feature).__name__, str(getattr(feature, "dtype", ""))
    if (
        name == "Image"
        or dtype in ("binary", "large_binary")
        or (isinstance(feature, dict) and "bytes" in feature)
    ):
        return "image"
    if name in ("List", "LargeList", "Sequence") or name.startswith("Array"):
        inner = getattr(feature, "feature", None)
        return "array" if inner is None or _kind(inner) in ("number", "array") else "other"
    if name == "ClassLabel" or dtype.startswith(("int", "uint", "float", "bool")):
        return "number"
    return "text" if dtype in ("string", "large_string") else "other"


def _targets(splits: Mapping[str, Any], name: str, task: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The targets of each split, and the names of their classes."""
    columns = {
        split: rows.select_columns([name]).with_format("arrow")[:][name] for split, rows in splits.items()
    }
    for split, column in columns.items():
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise ConfigError(
                f"dataset=hf: {split}[{row}] has no target in column {name}", "leave out such rows"
            )
    feature = splits["train"].features[name]
    kind = _kind(feature)
    if kind == "text":
        if task == "regression":
            raise ConfigError(f"dataset.task=regression: column {name} is text")
        texts = {split: column.to_pylist() for split, column in columns.items()}
        classes = sorted({text for each in texts.values() for text in each})
        number = {text: index for index, text in enumerate(classes)}
        coded = {split: torch.tensor([number[text] for text in each]) for split, each in texts.items()}
        return coded, tuple(classes)
    if kind not in ("number", "array"):
        raise ConfigError(f"dataset.target={name}: is {feature}, neither a class nor values")
    arrays = {
        split: numpy.array(column.to_pylist() if kind == "array" else column.to_numpy())
        for split, column in columns.items()
    }
    values = {split: torch.from_numpy(array) for split, array in arrays.items()}
    if task == "regression":
        values = {split: each.to(torch.float64) for split, each in values.items()}
    elif not values["train"].is_floating_point():
        values = {split: each.to(torch.int64) for split, each in values.items()}
    names = getattr(feature, "names", None) if task != "regression" else None
    return values, tuple(names or ())


# ------------------------------------------------------------------- where it comes from


def _library() -> Any:
    """Hugging Face's library, without a connection of its own accord."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
    except ImportError:
        raise ConfigError("dataset=hf: datasets is not installed", "pip install 'trainctl[hf]'") from None
    datasets.disable_progress_bars()
    return datasets


def _files(place: Path, task: str) -> dict[str, list[str]]:
    """The files of each split; none for a folder that ``save_to_disk`` wrote. Raises MissingDataError."""
    if not place.exists():
        stand_in: dict[str, object] = {
            "task": "regression" if task == "regression" else "classification",
            "shape": [4],
            "outputs": 1 if task == "regression" else 3,
        }
        raise MissingDataError(f"dataset=hf: {place} not found", "name it with dataset.path=FILE", stand_in)
    if place.is_file():
        return {"train": [str(place)]}
    if any((place / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return {}
    found: dict[str, list[str]] = {}
    for file in sorted(path for suffix in _BUILDERS for path in place.rglob(f"*{suffix}")):
        words = (file.name, *(each.name for each in file.relative_to(place).parents))
        split = next(
            (split for word in words for split, begins in _SPLITS.items() if word.lower().startswith(begins)),
            "train",
        )
        found.setdefault(split, []).append(str(file))
    if "train" not in found:
        raise ConfigError(
            f"dataset=hf: {place} has no files to train on",
            f"it reads {', '.join(_BUILDERS)}; call them train…",
        )
    return found


def _read(place: Path, found: Mapping[str, list[str]]) -> _Splits:
    suffixes = {Path(file).suffix for files in found.values() for file in files}
    if not suffixes <= _BUILDERS.keys() or len({_BUILDERS[each] for each in suffixes}) > 1:
        raise ConfigError(
            f"dataset=hf: {place} has {' and '.join(sorted(suffixes))} files",
            f"one kind of {', '.join(_BUILDERS)}; a table: dataset=csv",
        )
    library = _library()
    try:
        if not found:
            whole = library.load_from_disk(str(place.expanduser()))
        else:
            whole = library.load_dataset(_BUILDERS[suffixes.pop()], data_files=dict(found))
    except Exception as error:  # the library's own, and pyarrow's
        raise ConfigError(f"dataset=hf: {place} cannot be read: {_reason(error)}") from error
    return _as_splits(whole, library)


def _from_hub(name: str, subset: str | None, revision: str | None, *, download: bool) -> _Splits:
    if not download:
        # Before the import, which reads it; and for one that has been imported already.
        os.environ["HF_HUB_OFFLINE"] = "1"
    library = _library()
    import huggingface_hub

    offline = library.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    library.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = not download
    try:
        whole = library.load_dataset(name, subset, revision=revision)
    except Exception as error:  # the library's own, the service's, and pyarrow's
        remedy = "" if download else "it is not in the cache: dataset.download=true fetches it"
        raise ConfigError(f"dataset.hub={name}: {_reason(error)}", remedy) from error
    finally:
        library.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = offline
        if not download:
            os.environ.pop("HF_HUB_OFFLINE", None)
    return _as_splits(whole, library)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _as_splits(whole: Any, library: Any) -> _Splits:
    """The splits by trainctl's names, and the others' names. Images are decoded here, by few decoders."""
    named = {"train": whole} if not isinstance(whole, dict) else whole
    splits: dict[str, Any] = {}
    unused: list[str] = []
    for name, rows in named.items():
        split = next((split for split, begins in _SPLITS.items() if name.startswith(begins)), None)
        if split is None or split in splits:
            unused.append(name)
            continue
        for column, feature in rows.features.items():
            if type(feature).__name__ == "Image":
                rows = rows.cast_column(column, library.Image(decode=False))
        splits[split] = rows
    if "train" not in splits or not len(splits["train"]):
        raise ConfigError(f"dataset=hf: there is nothing to train on in {', '.join(named)}")
    return splits, unused
