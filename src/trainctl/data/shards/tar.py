"""Samples in a tar file, by webdataset's convention: members that differ only after the first dot are one.

github.com/webdataset/webdataset, ``tariterators.py``. Here members are found by their places in the file.
"""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy

from trainctl.data.images.listing import SUFFIXES
from trainctl.data.shards.part import Part, Value, Wanted, coded, from_json, from_text
from trainctl.errors import ConfigError

_MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
_TARGETS = ("cls", "txt", "json")
_ARRAY = "npy"
_BLOCK = 512
_LONGEST, _PADDING = 2**20, 2**20


@dataclass
class _Sample:
    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


def indexed(descriptor: int, where: str, wanted: Wanted) -> Part:
    """The samples of an open tar file. Raises ConfigError for one that is damaged or lacks a part."""
    places: list[tuple[int, int]] = []
    targets: list[Value] = []
    kinds: dict[str, str] = {}
    with open(descriptor, "rb", closefd=False) as file:
        for sample in _samples(file, where):
            name = f"{where}: sample {sample.key}"
            extension = _input(name, sample, wanted)
            kinds["array" if _last(extension) == _ARRAY else "image"] = extension
            places.append(sample.members[extension])
            source, value = _target(name, file, sample, wanted)
            targets.append(value)
        if not places:
            raise ConfigError(f"dataset=shards: {where} has no samples", "remove it")
        size = os.fstat(descriptor).st_size
    if len(kinds) > 1:
        raise ConfigError(f"dataset=shards: {where} has images and arrays", "dataset.inputs=[EXTENSION]")
    ((kind, extension),) = kinds.items()
    numbers, texts = coded(where, targets, wanted.task)
    offsets, sizes = (numpy.array(each, dtype=numpy.int64) for each in zip(*places, strict=True))
    return Part(offsets, sizes, numbers, texts, kind, f"{extension} → {source}", size)


def name_at(descriptor: int, offset: int) -> str:
    """The name of the member whose content begins at ``offset``; empty where its header is damaged."""
    with contextlib.suppress(tarfile.TarError, OSError):
        header = os.pread(descriptor, _BLOCK, offset - _BLOCK)
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    return ""


def _samples(file: BinaryIO, where: str) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for name, offset, size in _members(file, where):
        match = _MEMBER.fullmatch(name)
        if match is None:
            continue
        key, extension = match[1], match[2].lower()
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        if extension in sample.members:
            raise ConfigError(f"dataset=shards: {where} has two members {name}", "remove one")
        sample.members[extension] = offset, size
    if sample is not None:
        yield sample


def _members(file: BinaryIO, where: str) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file in the archive."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                vars(archive)["members"] = []  # else it keeps all of them
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
            end = archive.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        packed = "; a packed one has no places to read at: unpack it" if where.endswith("gz") else ""
        raise ConfigError(
            f"dataset=shards: {where} is damaged: {error}{packed}", "copy or write it again, or remove it"
        ) from error
    file.seek(end)
    rest = file.read(_PADDING)
    # tarfile ends where a header is torn, or where the first of several archives ends, and says nothing.
    if len(rest) < _BLOCK or rest.strip(b"\0"):
        torn = len(rest) < _BLOCK or rest[:_BLOCK].strip(b"\0")
        wrong = f"is cut off, or damaged, at byte {end}" if torn else "goes on after its end: it is several"
        raise ConfigError(f"dataset=shards: {where} {wrong}", "copy or write it again, or remove it")


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]


def _input(name: str, sample: _Sample, wanted: Wanted) -> str:
    if len(wanted.inputs) > 1:
        raise ConfigError(
            f"dataset.inputs={list(wanted.inputs)}: a sample of a tar has one input", "name one"
        )
    usable = [each for each in sample.members if f".{_last(each)}" in SUFFIXES or _last(each) == _ARRAY]
    found = [each for each in wanted.inputs if each in usable] if wanted.inputs else usable
    if wanted.target in found and not wanted.inputs:
        found.remove(wanted.target)
    if len(found) != 1:
        which = " or ".join(found or wanted.inputs or ("an image", ".npy"))
        wrong = f"has several inputs: {which}" if found else f"has no input ({which})"
        raise ConfigError(
            f"dataset=shards: {name} {wrong}; it has {', '.join(sample.members)}",
            "dataset.inputs=[EXTENSION] names it" if found else "write the shard again, or remove it",
        )
    return found[0]


def _target(name: str, file: BinaryIO, sample: _Sample, wanted: Wanted) -> tuple[str, Value]:
    """What the target is, for people, and the target."""
    asked = wanted.target
    within = asked is not None and asked not in sample.members and "json" in sample.members
    names = ("json",) if within else _TARGETS if asked is None else (asked,)
    found = next((each for each in names if each in sample.members), None)
    if found is None:
        raise ConfigError(
            f"dataset=shards: {name} has no target ({', '.join(names)}); it has {', '.join(sample.members)}",
            "dataset.target names an extension, or a field of its .json",
        )
    offset, size = sample.members[found]
    if size > _LONGEST:
        raise ConfigError(f"dataset=shards: {name}.{found} has {size} bytes: it is no target")
    file.seek(offset)
    content, where = file.read(size), f"{name}.{found}"
    if _last(found) == "json":
        return f"{found}{f' {asked}' if within else ''}", from_json(where, content, asked if within else None)
    # A class may be called 007.
    return found, from_text(where, content, numbers=found != "txt")
