"""Raw samples from files, a batch at a time: the input of ``predict``. No file needs to fit into memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainctl.data.arrays import Arrays
from trainctl.data.files import similar_file
from trainctl.data.images.listing import SUFFIXES
from trainctl.data.preprocessing import shown
from trainctl.errors import ConfigError
from trainctl.inference.readers.arrays import ArrayFile
from trainctl.inference.readers.arrow import ArrowTable, has_types
from trainctl.inference.readers.base import Source
from trainctl.inference.readers.images import ImageFiles, takes_images
from trainctl.inference.readers.several import SeveralArrays
from trainctl.inference.readers.tables import TableFile
from trainctl.inference.readers.texts import ArrowTexts, TextTable


def open_source(
    path: Path, raw: Mapping[str, Any], reading: Mapping[str, Any], dataset: Mapping[str, Any]
) -> Source:
    """The reader for ``path`` that gives samples like those of training.

    ``raw`` and ``reading`` come from :func:`trainctl.data.preprocessing.describe`; ``dataset``
    has the arguments of the run's dataset.

    Raises ConfigError where the path does not exist, or does not hold such samples.
    """
    if isinstance(raw["shape"], dict):
        wanted = f"the run was trained on {shown(raw)}: use an .npz file with an array for each"
    elif reading.get("kind") == "text":
        wanted = f"the run was trained on windows of text, {shown(raw)}: use --prompt TEXT, or an .npz file"
    elif reading.get("kind") == "texts":
        wanted = "the run was trained on texts: use a CSV or Parquet file with the same column"
    elif reading.get("kind") in ("table", "columns"):
        wanted = "the run was trained on a table: use a CSV or Parquet file with the same columns"
    elif takes_images(raw):
        files = "a folder of images, one image, or an .npz file"
        wanted = f"the run was trained on images of {shown(raw)}: use {files}"
    else:
        files = f"an .npz file{', or a CSV file' if len(raw['shape']) == 1 else ''}"
        wanted = f"the run was trained on samples of {shown(raw)}: use {files}"
    if not path.exists():
        raise ConfigError(f"--input {path}: there is no such file", f"{similar_file(path)}{wanted}")
    if isinstance(raw["shape"], dict):
        if not zipfile.is_zipfile(path):
            raise ConfigError(f"--input {path}: is not an .npz file", wanted)
        return SeveralArrays(Arrays(path), raw)
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        if not takes_images(raw):
            raise ConfigError(f"--input {path}: the run was not trained on images", wanted)
        return ImageFiles(path, raw, reading)
    if not path.is_file():
        raise ConfigError(f"--input {path}: is not a regular file", wanted)
    if zipfile.is_zipfile(path):
        # Of texts an array has the tokens.
        known = {} if reading.get("kind") == "texts" else reading
        return ArrayFile(Arrays(path), raw, known, dataset.get("inputs"))
    if len(raw["shape"]) != 1 or reading.get("kind") == "text":
        raise ConfigError(f"--input {path}: the run was not trained on tables", wanted)
    if reading.get("kind") == "texts":
        return (ArrowTexts if has_types(path) else TextTable)(path, raw, reading, dataset)
    return (ArrowTable if has_types(path) else TableFile)(path, raw, reading, dataset)
