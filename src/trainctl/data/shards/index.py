"""The index of a set of shards: where each sample lies, and its target.

Each shard has a file of its own in the index: it is read once, what is added later is all that is read then,
and a build that was interrupted goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from trainctl.data.progress import Progress
from trainctl.data.shards.part import Part, Wanted
from trainctl.data.shards.source import Shard
from trainctl.errors import ConfigError, StorageError

_VERSION = "shards-1"
_THREADS = 4
_SHOWN = 5
_MAPPED = 4096


@dataclass(frozen=True)
class Index:
    """What is known of the samples of all shards, one shard after the other.

    Attributes:
        paths: a file for each shard.
        ends: where the samples of each end, (shards,) int64.
        targets: (N,) int64 classes or float64 values.
        classes: their names, sorted; empty where they are numbers.
        about: of each shard.
        known: whether nothing had to be read for it.
    """

    paths: tuple[Path, ...]
    ends: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    about: tuple[dict[str, Any], ...]
    known: bool


@lru_cache(_MAPPED)
def places(path: Path) -> tuple[Tensor, Tensor]:
    """Of each sample of a shard the place of its input in it, and its size, (N,) int64 both, mapped."""
    with safe_open(path, framework="pt") as stored:
        return stored.get_tensor("offsets"), stored.get_tensor("sizes")


def built(
    shards: Sequence[Shard], train: int, wanted: Wanted, folder: Path, make: Callable[[Shard], Part]
) -> Index:
    """The index of ``shards``, the first ``train`` of which have all classes; ``make`` reads one.

    Raises ConfigError for shards that do not fit together, StorageError where it cannot be written.
    """
    keys = [hashlib.sha256(repr((_VERSION, wanted, each)).encode()).hexdigest() for each in shards]
    paths = tuple(folder / key[:2] / f"{key[2:32]}.safetensors" for key in keys)
    progress, done, about = Progress("indexing shards", sum(each.size for each in shards)), 0, []
    known, pool = all(path.exists() for path in paths), ThreadPoolExecutor(_THREADS)
    read = partial(_part, make=make)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the processes of several devices need it at once
            for shard, found in zip(shards, pool.map(read, shards, paths), strict=True):
                about.append(found)
                done += shard.size
                progress.update(done)
    except OSError as error:
        raise StorageError(
            f"the index of the shards cannot be written: {error}",
            "name another folder: dataset.cache_dir=DIR",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    _refuse_different(shards, about)
    classes = tuple(sorted({text for each in about[:train] for text in each["texts"]}))
    ends = torch.tensor([each["count"] for each in about]).cumsum(0)
    return Index(paths, ends, _targets(shards, paths, about, classes), classes, tuple(about), known)


def _part(shard: Shard, path: Path, make: Callable[[Shard], Part]) -> dict[str, Any]:
    """What is known of a shard; it is read where its file of the index is absent, torn or foreign."""
    try:
        return _about(path)
    except (SafetensorError, OSError, ValueError, KeyError):
        part = make(shard)
    path.parent.mkdir(exist_ok=True)
    about = {"texts": part.texts, "kind": part.kind, "source": part.source, "size": part.size}
    arrays = {"offsets": part.offsets, "sizes": part.sizes, "targets": part.targets}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        save_file(arrays, temporary, {"about": json.dumps({**about, "count": len(part)})})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return _about(path)


def _about(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as stored:
        found: dict[str, Any] = json.loads((stored.metadata() or {})["about"])
    return found


def _refuse_different(shards: Sequence[Shard], about: Sequence[dict[str, Any]]) -> None:
    """Raise ConfigError for shards with other inputs or targets than the first one."""
    for shard, each in zip(shards, about, strict=True):
        if each["kind"] != about[0]["kind"] or bool(each["texts"]) != bool(about[0]["texts"]):
            raise ConfigError(
                f"dataset=shards: {shard.path} has other samples than {shards[0].path}:"
                f" {each['source']}, not {about[0]['source']}",
                "dataset.inputs and dataset.target name what all of them have",
            )


def _targets(
    shards: Sequence[Shard], paths: Sequence[Path], about: Sequence[dict[str, Any]], classes: Sequence[str]
) -> Tensor:
    number, found = {name: at for at, name in enumerate(classes)}, []
    for shard, path, each in zip(shards, paths, about, strict=True):
        if strange := [text for text in each["texts"] if text not in number]:
            raise ConfigError(
                f"dataset=shards: {shard.path} has the class {strange[0]}, which no shard of train has",
                f"there are: {', '.join(classes[:_SHOWN])}{' …' if len(classes) > _SHOWN else ''}",
            )
        with safe_open(path, framework="numpy") as stored:
            values = stored.get_tensor("targets")
        names = numpy.array([number[text] for text in each["texts"]], dtype=numpy.int64)
        found.append(torch.from_numpy(names[values] if len(names) else values))
    return torch.cat(found)
