"""The pixels of a folder's files: decoded once and kept, or decoded whenever they are used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainctl.data.cache_file import cache_paths
from trainctl.data.images.cache import Decode, Stored, decoded, in_memory, stamp, write
from trainctl.data.types import AnySplit, ItemSplit, Split


def cached(
    root: Path,
    files: Sequence[str],
    targets: Tensor,
    decode: Decode,
    name: str,
    shape: Sequence[int],
    *,
    small: bool,
    skip: bool = False,
    sources: Sequence[str] = (),
) -> tuple[AnySplit, Tensor | None, str]:
    """The decoded files, which of them are good, and a note on their source.

    Args:
        root: the folder; ``files`` are paths below it.
        decode: of a path; its representation tells whether a cache was decoded in the same way.
        name: of the cache.
        shape: of a decoded file.
        small: whether all of them are kept in memory.
        skip: leave out broken files; without, the first one raises ConfigError.
        sources: other files that what is decoded depends on.
    """
    paths = [str(root / each) for each in files]
    described = stamp(root, [*files, *sources], decode)
    file = f"{name}-{'x'.join(map(str, shape))}-{getattr(decode, 'resize', '')}.safetensors"
    candidates = [Stored(place, described) for place in cache_paths(root, "images", file)]
    for stored in candidates:
        if stored.valid():
            return *_stored(stored, targets, small=small), "cached"
    started, reason = time.perf_counter(), ""
    for stored in candidates:
        try:
            write(stored, paths, decode, shape, skip=skip)
        except OSError as error:
            reason = reason or f"{error.strerror or error}"
            continue
        note = f"decoded in {time.perf_counter() - started:.1f} s and cached in {stored.path}"
        return *_stored(stored, targets, small=small), note
    if small:
        images, good = in_memory(paths, decode, shape, skip=skip)
        return Split(images, targets), good, f"decoded; not cached: {reason}"
    return on_demand(paths, targets, decode, f"not cached: {reason}", skip=skip)


def on_demand(
    paths: Sequence[str], targets: Tensor, decode: Decode, note: str, *, skip: bool = False
) -> tuple[AnySplit, Tensor | None, str]:
    """Images that are decoded whenever they are used; with ``skip`` once before, to find the broken ones."""
    good = None
    if skip:
        good = torch.tensor([image is not None for image in decoded(paths, decode, skip=True)])
    return ItemSplit(paths, targets, decode), good, note


def selected(images: AnySplit, rows: range, good: Tensor | None = None) -> AnySplit:
    """The good ones of some rows."""
    index = torch.arange(rows.start, rows.stop)
    if good is not None:
        index = index[good[rows.start : rows.stop]]
    if isinstance(images, Split) and len(index) == len(rows):
        return images[rows.start : rows.stop]  # no copy
    return images.select(index)


def _stored(stored: Stored, targets: Tensor, *, small: bool) -> tuple[AnySplit, Tensor]:
    if small:
        # The clone reads the file once in order; mapped, the first epoch would read it in random order.
        return Split(stored.images.clone(), targets), stored.good()
    return ItemSplit(range(len(targets)), targets, stored), stored.good()
