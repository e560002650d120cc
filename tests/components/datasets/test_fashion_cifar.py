"""Fashion-MNIST and CIFAR: torchvision's layout, decoded once, then read as tensors."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from trainctl.components.datasets.cifar10 import cifar10
from trainctl.components.datasets.cifar100 import cifar100
from trainctl.components.datasets.fashion_mnist import fashion_mnist
from trainctl.errors import ConfigError, MissingDataError


def write_idx(folder: Path) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("t10k", 10)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 2049, count) + labels.tobytes()
        )


def test_fashion_mnist_reads_plain_and_gzipped_files_once(tmp_path: Path) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw")
    first, second = fashion_mnist(root=str(tmp_path)), fashion_mnist(root=str(tmp_path))
    assert first.note.startswith("decoded and cached")
    assert second.note == "cached"
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert first.train.inputs.shape == (40, 1, 28, 28)
    assert first.train.inputs.dtype == torch.uint8
    assert first.classes[9] == "Ankle boot"


def test_fashion_mnist_absent_names_its_own_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="FashionMNIST/raw"):
        fashion_mnist(root=str(tmp_path))


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files in CIFAR's layout, with the checksums that torchvision expects made to match them."""
    generator = np.random.default_rng(0)

    def write(path: Path, content: object) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(content))
        return hashlib.md5(path.read_bytes()).hexdigest()

    def pictures(count: int, key: str, classes: int) -> dict[str, object]:
        return {
            "data": generator.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8),
            key: [number % classes for number in range(count)],
        }

    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    trains = [
        [f"data_batch_{n}", write(ten / f"data_batch_{n}", pictures(20, "labels", 10))] for n in range(1, 6)
    ]
    tests = [["test_batch", write(ten / "test_batch", pictures(20, "labels", 10))]]
    names = write(ten / "batches.meta", {"label_names": [f"kind {n}" for n in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", trains)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", tests)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": names})
    train = [["train", write(hundred / "train", pictures(100, "fine_labels", 100))]]
    test = [["test", write(hundred / "test", pictures(100, "fine_labels", 100))]]
    names = write(hundred / "meta", {"fine_label_names": [f"kind {n}" for n in range(100)]})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR100, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": names})
    return tmp_path


@pytest.mark.parametrize(("build", "classes"), [(cifar10, 10), (cifar100, 100)])
def test_cifar_is_decoded_once_and_keeps_its_class_names(cifar_root: Path, build, classes: int) -> None:
    first, second = build(root=str(cifar_root)), build(root=str(cifar_root))
    assert first.note.startswith("decoded and cached")
    assert second.note == "cached"
    assert first.output_size == classes
    assert first.classes == tuple(f"kind {number}" for number in range(classes))
    assert first.train.inputs.shape == (100, 3, 32, 32)
    assert torch.equal(first.train.inputs, second.train.inputs)
    batch = first.transform(first.train.inputs)
    assert batch.dtype == torch.float32
    mean = first.train.inputs[:, 1].double().mean() / 255
    assert float(batch[:, 1].double().mean()) == pytest.approx(
        (float(mean) - _MEANS[classes]) / _STDS[classes], abs=1e-4
    )


_MEANS, _STDS = {10: 0.4822, 100: 0.4865}, {10: 0.2435, 100: 0.2564}


def test_cifar_files_that_are_not_the_published_ones_are_not_opened(cifar_root: Path) -> None:
    class Owned:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (cifar_root / "owned",))  # type: ignore[return-value]

    (cifar_root / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Owned()))
    with pytest.raises(ConfigError, match="cannot be used"):
        cifar10(root=str(cifar_root))
    assert not (cifar_root / "owned").exists()


def test_cifar_absent_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="cifar-100-python") as error:
        cifar100(root=str(tmp_path))
    assert error.value.stand_in == {"task": "classification", "shape": [3, 32, 32], "outputs": 100}
