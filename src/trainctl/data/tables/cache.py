"""The encoded rows of large tables in a file, so that later runs read no table.

The file has the safetensors format, beside the table or in the user's cache folder. Its name and its stamp
come from the table's content and from how it is read: a changed table, or another option, is read anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from trainctl.data.cache_file import cache_paths, write
from trainctl.data.files import identity
from trainctl.data.progress import Progress
from trainctl.data.tables.table import Prepared, finish
from trainctl.data.types import Data, Split
from trainctl.errors import ConfigError, StorageError

SMALLEST = 1 << 24
"""Files of fewer bytes are read as quickly as a cache."""
_FORMAT = "table-2"
_SAMPLED, _SAMPLE = 64, 1 << 14
_KEPT = 4


def fingerprint(file: Path) -> list[object]:
    """What tells one content of a file from another: size, times, inode, and a hash of 64 pieces of it."""
    digest, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as content:
        for number in range(_SAMPLED):
            content.seek(max(0, size - _SAMPLE) * number // (_SAMPLED - 1))
            digest.update(content.read(_SAMPLE))
    return [*identity(file), digest.hexdigest()]


def cached(files: Sequence[Path], options: Mapping[str, Any], prepare: Callable[[], Prepared]) -> Data:
    """The dataset that ``prepare`` makes of ``files``: from the cache where that has it, else put there.

    ``options`` are all that decides what it is, beside the content of the files; their ``like`` may be the
    ``reading`` of a dataset in the cache that was made with the same others.
    """
    if not options["cache"] or sum(file.stat().st_size for file in files) < SMALLEST:
        return prepare().data()
    like = options.get("like")
    sources = _stamp(files, {**options, "like": None})
    for place in _places(files[0], sources):
        found = _read(place, sources)
        if found is not None and like in (None, json.loads(json.dumps(found.reading))):
            return found
    if like is not None:
        sources = _stamp(files, options)
        found = next(filter(None, (_read(place, sources) for place in _places(files[0], sources))), None)
        if found is not None:
            return found
    started = time.perf_counter()
    prepared = prepare()
    if sources != _stamp(files, options):
        raise ConfigError(f"{files[0]} was changed while it was read", "start again")
    reason = "it cannot be read back"
    for place in _places(files[0], sources):
        try:
            _write(place, sources, prepared)
        except OSError as error:
            reason = f"{error.strerror or error}"
            continue
        found = _read(place, sources)
        if found is not None:
            del prepared
            took = f"read in {time.perf_counter() - started:.1f} s and cached in {place}"
            return replace(found, note=f"{found.note.removesuffix('; cached')}; {took}")
    data = prepared.data()
    return replace(data, note=f"{data.note}; not cached: {reason}")


def _stamp(files: Sequence[Path], options: Mapping[str, Any]) -> str:
    try:
        contents = [fingerprint(file) for file in files]
    except OSError as error:
        raise StorageError(
            f"{error.filename} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error
    decisive = {name: value for name, value in options.items() if name not in ("path", "cache")}
    described = [_FORMAT, contents, decisive]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def _places(file: Path, sources: str) -> list[Path]:
    return cache_paths(file, "tables", f"{sources[:16]}.safetensors")


def _read(place: Path, sources: str) -> Data | None:
    """The dataset in a cache, its rows mapped into memory; None if it is absent, torn or foreign."""
    try:
        with safe_open(place, framework="pt") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("sources") != sources:
                return None
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        facts = json.loads(metadata["facts"])
        train = Split(tensors["train.inputs"], tensors["train.targets"])
        test = None
        if "test.inputs" in tensors:
            test = Split(tensors["test.inputs"], tensors["test.targets"])
        data = finish(facts, train, test)
        os.utime(place)  # the files that were not used for longest go
    except (SafetensorError, OSError, LookupError, TypeError, ValueError):
        return None
    return replace(data, note=f"{data.note}; cached")


def _write(place: Path, sources: str, prepared: Prepared) -> None:
    """Write the rows block by block: encoded, they are never in memory together. Raises OSError."""
    samples = {"train": prepared.train} | ({"test": prepared.test} if prepared.test is not None else {})
    tensors: dict[str, tuple[Sequence[int], torch.dtype]] = {}
    for part, rows in samples.items():
        tensors[f"{part}.inputs"] = rows.shape, rows.dtype
        tensors[f"{part}.targets"] = rows.targets.shape, rows.targets.dtype
    progress = Progress("writing the cache", sum(part.shape[0] for part in samples.values()))

    def content() -> Iterator[memoryview]:
        done = 0
        for part in samples.values():
            for block in part.blocks():
                yield block.numpy().data
                done += len(block)
                progress.update(done)
            yield part.targets.contiguous().numpy().data

    write(place, tensors, {"sources": sources, "facts": json.dumps(prepared.facts)}, content())
    others = sorted(place.parent.glob("*.safetensors"), key=lambda other: other.stat().st_mtime)
    for other in others[:-_KEPT]:
        other.unlink(missing_ok=True)
