"""The safetensors format, by the library's own reader and writer, and by hand."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from trainctl.checkpoint import tensors
from trainctl.errors import UnsafeInputError

KINDS = [torch.bool, torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float32, torch.complex64]
KINDS += [torch.float64, torch.int64, torch.float8_e4m3fn]


def some() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    made = {str(kind): (torch.rand(3, 5) * 9).to(kind) for kind in KINDS}
    return {**made, "empty": torch.empty(0, 4), "number": torch.tensor(7.0), "ä": torch.arange(3)}


def written(content: dict[str, torch.Tensor]) -> bytes:
    return b"".join(tensors.pieces(content))


def read(data: bytes, **options: Any) -> dict[str, torch.Tensor]:
    digest = hashlib.sha256()
    found = tensors.read(io.BytesIO(data), len(data), digest, "file", **options)
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    return found


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bytes(tensors._memory(found[name])) == bytes(tensors._memory(tensor))


def test_the_library_reads_what_is_written() -> None:
    assert_equal(load(written(some())), some())
    assert load(written({})) == {}


def test_what_the_library_writes_is_read() -> None:
    assert_equal(read(save(some(), {"made": "elsewhere"})), some())
    assert read(save(some()), keep=False) == {}


def test_no_copy_is_made() -> None:
    tensor = torch.zeros(1000)
    *_, piece = tensors.pieces({"a": tensor})
    tensor[0] = 1.0
    assert piece[:4] == torch.ones(1).numpy().tobytes()


def file(entries: Any, data: bytes) -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"a": entry(shape=(1 << 60,), offsets=(0, 1 << 62))}, "does not fit"),
        ({"a": entry(shape=(-2, -1))}, "no valid entry"),
        ({"a": entry(shape=(1.0, 2))}, "no valid entry"),
        ({"a": entry(shape="22")}, "no valid entry"),
        ({"a": entry(dtype="F31")}, "no valid entry"),
        ({"a": entry(dtype=["F32"])}, "no valid entry"),
        ({"a": entry(offsets=(0, 8, 9))}, "no valid entry"),
        ({"a": entry(offsets=(8, 0))}, "does not fit"),
        ({"a": entry(), "b": entry()}, "does not begin where"),
        ({"a": entry(offsets=(4, 12))}, "does not fit"),
        ({"a": entry(shape=(1,), offsets=(0, 4))}, "belong to no tensor"),
        ({"a": 3}, "no valid entry"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(entries: Any, reason: str) -> None:
    with pytest.raises(UnsafeInputError, match=reason):
        read(file(entries, bytes(8)))


def test_a_header_longer_than_the_file_and_no_table_are_refused() -> None:
    with pytest.raises(UnsafeInputError, match="its header claims"):
        read((1 << 60).to_bytes(8, "little"))
    with pytest.raises(UnsafeInputError, match="not a table"):
        read(file([], b""))
    with pytest.raises(ValueError, match="ends within"):
        read(b"abc")
